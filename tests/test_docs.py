"""The pages of documentation."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))]
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
