"""Results: each figure comes from a record."""

import importlib.util
from pathlib import Path

import pytest

from hippo.training import records

ROOT = Path(__file__).parents[2]


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_in_both_readmes_are_what_the_committed_records_give():
    collect, results = load("collect"), ROOT / "results"
    found = collect.read_all()
    timing, benchmark = collect.read_benchmark("models"), collect.read_benchmark("training_step")
    assert found
    assert (results / "README.md").read_text(encoding="utf-8") == collect.render(found, timing)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == collect.with_summary(readme, collect.render_summary(found, timing, benchmark))
    assert "test accuracy" in readme


def test_committed_records_come_from_committed_code_and_name_nothing_private():
    for path in (ROOT / "results" / "records").rglob("*.json"):
        record = records.read(path)
        assert path.stem == record["id"] == f"{record['hash']}-seed{record['seed']}"
        assert load("collect").unfit(record) is None, path
        assert len(record["history"]) == record["epochs"]
        assert path.with_suffix(".png").is_file()


def test_the_digits_are_learnt_by_every_seed():
    """What `make train` promises: at least 0.95 on the test split, within two minutes of training."""
    found = [
        record
        for record in load("collect").read_all()
        if record["name"] == "digits_legs" and record["config"]["optimizer"]["lr"] == 4e-3
    ]
    assert len(found) >= 3
    assert len({record["hash"] for record in found}) == 1
    for record in found:
        assert record["metrics"]["best"]["test"]["accuracy"] >= 0.95
        assert record["seconds"] < 120


def test_every_model_has_a_row_with_its_seeds():
    collect = load("collect")
    found, timing = collect.read_all(), collect.read_benchmark("models")
    models = {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")}
    rows = [row for row in collect.every_model(found, timing) if row.startswith("| `") and "`model=`" not in row]
    assert {row.split("`")[1] for row in rows} == models
    assert all(row.count("](records/") >= 2 for row in rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git": {"commit": "a", "dirty": True}}, "committed code"),
        ({"git": {"commit": "a", "dirty": None}}, "committed code"),
        ({"command": None}, "committed code"),
        ({"earlier": [{"git": {"commit": "a", "dirty": True}}]}, "committed code"),
        ({"earlier": [{"git": {"commit": "b", "dirty": False}}]}, "other code"),
        ({"config": {"trainer": {"limit_test_batches": 1}}}, "limit_test_batches"),
    ],
)
def test_what_cannot_be_run_again_is_left_out(change, reason):
    good = {
        "command": "python train.py",
        "git": {"commit": "a", "dirty": False},
        "earlier": [{"git": {"commit": "a", "dirty": False}}],
        "config": {"trainer": {"max_epochs": 1}},
    }
    unfit = load("collect").unfit
    assert unfit(good) is None
    assert reason in unfit(good | change)
