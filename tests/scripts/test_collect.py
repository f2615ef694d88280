"""Results: each figure comes from a record."""

import importlib.util
import json
from pathlib import Path

from hippo.training import records

ROOT = Path(__file__).parents[2]


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_in_both_readmes_are_what_the_committed_records_give():
    collect, results = load("collect"), ROOT / "results"
    found = [records.read(path) for path in sorted((results / "records").rglob("*.json"))]
    benchmark = json.loads((results / "benchmarks" / "training_step.json").read_text())
    assert found
    assert (results / "README.md").read_text(encoding="utf-8") == collect.render(found)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == collect.with_summary(readme, collect.render_summary(found, benchmark))
    assert "test accuracy" in readme


def test_committed_records_come_from_committed_code_and_name_nothing_private():
    for path in (ROOT / "results" / "records").rglob("*.json"):
        record = records.read(path)
        assert path.stem == record["id"] == f"{record['hash']}-seed{record['seed']}"
        assert record["git"]["dirty"] is False, path
        assert len(record["history"]) == record["epochs"]
        assert path.with_suffix(".png").is_file()
