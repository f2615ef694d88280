"""Reproducing a table, from nothing to the page: real runs, of a small table on the digits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TABLE = {
    "title": "Two small networks",
    "source": "nowhere",
    "seeds": [0, 1],
    "columns": {"plain": {"label": "digits", "overrides": ["experiment=digits", "model.hidden_size=4"]}},
    "rows": {
        "gru": {"label": "GRU", "overrides": ["model=gru", "trainer.max_epochs=2"]},
        "ode_rnn": {"label": "ODE-RNN", "overrides": ["model=ode_rnn", "trainer.max_epochs=1"], "seeds": [0]},
    },
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the code under a commit of its own: results come from committed code only."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("train.py", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(TABLE))
    return folder


def reproduce(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "WANDB_MODE": "disabled"}
    command = [sys.executable, "scripts/reproduce.py", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def test_a_table_from_nothing_to_the_page(checkout):
    planned = reproduce(checkout, "small.yaml", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "0 of 3 runs are done" in planned.stdout
    assert "missing" in planned.stdout
    assert not (checkout / "outputs").exists()

    first = reproduce(checkout, "small.yaml", "--jobs", "2")
    assert first.returncode != 0  # ODE-RNN needs timestamps: one failure, which stops nothing else
    assert "1 of 3 runs failed" in first.stderr
    assert "error: model: ODERNN needs timestamps" in first.stderr
    page = (checkout / "results" / "tables" / "small.md").read_text()
    assert "(2) |" in page
    assert "| ODE-RNN | missing |" in page
    assert len(list((checkout / "results" / "records").rglob("*.json"))) == 2

    own = yaml.safe_load((checkout / "small.yaml").read_text())
    own["rows"]["ode_rnn"]["overrides"].append("dataset.timestamps=true")
    (checkout / "small.yaml").write_text(yaml.safe_dump(own))
    second = reproduce(checkout, "small.yaml")
    assert second.returncode == 0, second.stderr
    assert "2 of 3 runs are done" in second.stdout
    page = (checkout / "results" / "tables" / "small.md").read_text()
    assert "missing" not in page
    assert "3 of 3 runs are done" in reproduce(checkout, "small.yaml", "--dry-run").stdout


def test_what_is_asked_for_wrongly_is_one_sentence(checkout):
    done = reproduce(checkout, "trajectorie", "--dry-run")
    assert done.stderr.strip() == "error: there is no table trajectorie; did you mean trajectories?"
    done = reproduce(checkout, "small.yaml", "--dry-run", "--rows", "lstm")
    assert "there is no row lstm; choose from gru, ode_rnn" in done.stderr
