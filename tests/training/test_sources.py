"""Which code made a run: in repositories, out of them, and installed."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from hippo import project
from hippo.training import sources

CONFIG = {"model": {"_target_": "own_network.Network"}, "f": {"_target_": "hydra.utils.get_method", "path": "own.f.g"}}


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module that imports another beside it, and a package; all three are loaded."""
    (tmp_path / "own_network.py").write_text("import own_helper\n")
    (tmp_path / "own_helper.py").write_text("x = 1\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    (tmp_path / "own" / "f.py").write_text("g = print\n")
    (tmp_path / "unused.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    for name in ("own_network", "own.f"):
        importlib.import_module(name)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_outside_a_repository_there_is_a_hash_of_what_is_used(own):
    first = sources.used(CONFIG)
    assert list(first) == ["hippo", "own", "own_network"]
    assert first["own_network"] | {"hash": 0} == {"version": None, "hash": 0, "commit": None, "dirty": None}
    assert sources.uncommitted({"code": first})[-2:] == ["own", "own_network"]
    (own / "unused.py").write_text("y = 2\n")
    assert sources.used(CONFIG) == first
    (own / "own_helper.py").write_text("x = 2\n")
    again = sources.used([CONFIG, {}])
    assert again["own_network"]["hash"] != first["own_network"]["hash"]
    assert again["hippo"] == first["hippo"]


def test_a_module_may_be_called_as_its_folder(own):
    folder = own / "alone"
    folder.mkdir()
    (folder / "alone.py").write_text("x = 1\n")
    sys.path.insert(0, str(folder))
    importlib.import_module("alone")
    first = sources.used([{"_target_": "alone.Model"}])
    (own / "own_helper.py").write_text("x = 3\n")  # loaded, and not beside it
    assert sources.used([{"_target_": "alone.Model"}]) == first


def test_in_a_repository_each_used_file_has_to_be_as_committed(own):
    git(own, "init", "-q")
    (own / ".gitignore").write_text("own_helper.py\n")
    git(own, "add", "own_network.py", "own")
    git(own, "commit", "-qm", "own")
    ignored = sources.used(CONFIG)
    assert [ignored[name]["dirty"] for name in ("own", "own_network")] == [True, True]
    git(own, "add", "--force", "own_helper.py")
    git(own, "commit", "-qm", "helper")
    clean = sources.used(CONFIG)
    assert clean["own_network"]["commit"] == git(own, "rev-parse", "HEAD") != clean["hippo"]["commit"]
    assert [clean[name]["dirty"] for name in ("own", "own_network")] == [False, False]
    (own / "own" / "f.py").write_text("g = repr\n")
    warning = sources.warning(sources.used(CONFIG))
    assert warning is not None
    assert warning.partition(":")[0].endswith(", own") or warning.startswith("warning  own:")
    assert "†uncommitted" in warning


def test_a_project_s_configurations_belong_to_it_but_for_its_tables(own, monkeypatch):
    for group in ("model", "table"):
        (own / "configs" / group).mkdir(parents=True)
        (own / "configs" / group / "own.yaml").write_text("hidden_size: 3\n")
    monkeypatch.setenv("HIPPO_CONFIGS", str(own / "configs"))
    git(own, "init", "-q")
    git(own, "add", "configs/model")
    git(own, "commit", "-qm", "own")
    assert sources.used({})["configs"] == {
        "version": None,
        "hash": None,
        "commit": git(own, "rev-parse", "HEAD"),
        "dirty": False,
    }
    (own / "configs" / "model" / "other.yaml").touch()
    assert sources.used({})["configs"]["dirty"]


def test_what_is_installed_is_told_by_its_version_even_within_a_repository(own, monkeypatch):
    git(own, "init", "-q")
    git(own, "commit", "-qm", "empty", "--allow-empty")
    packages = own / "environment" / "lib" / "site-packages"
    (packages / "there").mkdir(parents=True)
    (packages / "there" / "__init__.py").touch()
    (packages / "there-2.5.dist-info").mkdir()
    (packages / "there-2.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: there\nVersion: 2.5\n")
    (packages / "there-2.5.dist-info" / "RECORD").write_text("there/__init__.py,,\n")
    monkeypatch.syspath_prepend(packages)
    importlib.import_module("there")
    its = sources.used({"_target_": "there.Model"})["there"]
    assert its | {"hash": 0} == {"version": "2.5", "hash": 0, "commit": None, "dirty": None}
    assert "there" not in sources.uncommitted({"code": {"there": its}})


def test_the_package_of_this_checkout_counts_with_its_configurations():
    its = sources.package()
    assert len(its["hash"]) == 12
    assert its["version"] is None
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", "src", "configs", "scripts", "train.py", "requirements.lock"],
        cwd=project.shipped().parent,
        capture_output=True,
        text=True,
    )
    assert its["dirty"] is (None if status.returncode else bool(status.stdout))
