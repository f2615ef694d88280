"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
ROOT = Path(__file__).parents[1]
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.9"}


@pytest.fixture(scope="module")
def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; (.+?))? \\$", lock, re.MULTILINE)
    return {name: version for name, version, marker in entries if not marker or Marker(marker).evaluate(PYTHON)}


@pytest.fixture(scope="module")
def conda() -> dict[str, str]:
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return dict(line.split("==") for line in pip["pip"] if not line.startswith("--editable"))


def test_the_lock_satisfies_what_is_declared(declared, locked):
    for name, requirement in declared.items():
        assert requirement.specifier.contains(locked[name]), name


def test_conda_users_get_the_locked_versions(declared, locked, conda):
    assert conda == {name: locked[name] for name in declared}


def test_no_package_of_the_stack_is_missing(declared):
    stack = {"torch", "torchvision", "hydra-core", "omegaconf", "wandb", "pytorch-lightning"}
    assert stack <= set(declared)


def test_the_lock_holds_hashes_and_no_address_of_an_index():
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock
    assert "index-url" not in lock
