"""A checkout to run scripts in: results come from committed code only."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the code under a commit of its own, without the project's tables, which take long to plan."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "table"))
    (folder / "configs" / "table").mkdir()
    for name in ("train.py", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def python(checkout) -> Callable[..., subprocess.Popen]:
    """Start a script of the checkout: python("train.py", "seed=1"), its output to be read as text."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout / "src"), "WANDB_MODE": "disabled"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
