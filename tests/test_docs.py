"""The pages of documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def linked(page: Path) -> list[str]:
    """Return the files that a page links to."""
    return [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))]


def test_what_pages_link_to_exists():
    pages = sorted((ROOT / "docs").rglob("*.md"))
    links = [(page, link) for page in pages for link in linked(page)]
    assert len(links) > len(pages)
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation():
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert (
        set(re.findall(r"^ +- (?:\w+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
        == pages
    )
