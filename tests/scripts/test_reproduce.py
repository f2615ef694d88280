"""Reproducing a table, from nothing to the page: real runs, of a small table on the digits."""

import re
import runpy
import shutil
import subprocess
import sys

import pytest
import yaml

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


@pytest.fixture
def reproduce(checkout, monkeypatch, capfd):
    """The function (*arguments) -> the script's result, run in this process: a start takes longer than most of it."""
    (checkout / "small.yaml").write_text(yaml.safe_dump(TABLE))
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("PYTHONPATH", str(checkout / "src"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("HIPPO_CONFIGS", "")  # set by the program, as the path is
    monkeypatch.syspath_prepend(checkout)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        path, code = checkout / "scripts" / "reproduce.py", 0
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        capfd.readouterr()
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        stdout, stderr = capfd.readouterr()
        said = f"{stderr}{code}\n" if isinstance(code, str) else stderr
        return subprocess.CompletedProcess(arguments, int(bool(code)), stdout, said)

    return run


@pytest.mark.slow
def test_a_table_from_nothing_to_the_page(checkout, reproduce):
    planned = reproduce("small.yaml", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "0 of 3 runs are done" in planned.stdout
    assert "; 2 take about " in planned.stdout
    assert " thread(s), 2 at a time" in planned.stdout
    (without_time,) = [line for line in planned.stdout.splitlines() if "model=ode_rnn" in line]
    assert without_time.startswith("  missing         ?  hippo train")
    assert "; model: ODERNN needs timestamps" in without_time
    assert "; 1 could not be timed" in planned.stdout
    assert not (checkout / "outputs").exists()

    first = reproduce("small.yaml", "--jobs", "2")
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
    second = reproduce("small.yaml")
    assert second.returncode == 0, second.stderr
    assert "2 of 3 runs are done" in second.stdout
    page = (checkout / "results" / "tables" / "small.md").read_text()
    assert "missing" not in page
    assert "3 of 3 runs are done" in reproduce("small.yaml", "--dry-run").stdout

    # Records that cannot stand in a table are neither taken for done nor written over. Of uncommitted code they can.
    shutil.rmtree(checkout / "results" / "records")
    elsewhere, cut, dirty = sorted((checkout / "outputs").rglob("record.json"))
    elsewhere.write_text(re.sub('"command": ".*"', '"command": null', elsewhere.read_text()))
    cut.write_text(cut.read_text()[:1000])
    dirty.write_text(dirty.read_text().replace('"dirty": false', '"dirty": true'))
    planned = reproduce("small.yaml", "--dry-run")
    assert planned.stdout.count("  unfit") == 2
    assert "1 of 3 runs are done" in planned.stdout
    third = reproduce("small.yaml")
    assert third.returncode != 0
    for words in (f"{elsewhere.parent}: it was not made by hippo train", f"{cut} is not a record"):
        assert third.stderr.count(words) == 1
    assert len(list((checkout / "results" / "records").rglob("*.json"))) == 1
    assert "(1) †uncommitted" in (checkout / "results" / "tables" / "small.md").read_text()


def test_what_is_asked_for_wrongly_is_one_sentence(checkout, reproduce):
    (checkout / "configs" / "table" / "two_networks.yaml").write_text(yaml.safe_dump(TABLE))
    done = reproduce("two_network", "--dry-run")
    assert done.stderr.strip() == "error: there is no table two_network; did you mean two_networks?"
    done = reproduce("small.yaml", "--dry-run", "--rows", "lstm")
    assert "there is no row lstm; choose from gru, ode_rnn" in done.stderr
    assert "argument --jobs: at least 1, not -1" in reproduce("small.yaml", "--jobs", "-1").stderr
    assert "no run has a seed of 7" in reproduce("small.yaml", "--dry-run", "--seeds", "7").stderr
    done = reproduce("small.yaml", "--dry-run", "hydra.launcher.jobs=1")
    assert "hydra.launcher.jobs=1: overrides are for another launcher" in done.stderr
