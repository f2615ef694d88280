"""Results: each figure comes from a record."""

import copy
import functools
import importlib.util
import re
import shlex
from pathlib import Path

import hydra
import pytest

from hippo.tables.collect import by_name, read_all, unfit
from hippo.tables.render import write_table
from hippo.tables.report import report
from hippo.tables.table import every_table
from hippo.training import records
from hippo.training.sweeps import Run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_in_both_readmes_are_what_the_committed_records_give():
    collect = load("collect")
    found = read_all(RESULTS)
    assert found
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    benchmarks = collect.every_benchmark()
    assert page == collect.render(found, benchmarks["models"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == collect.with_summary(readme, collect.render_summary(every(), found, benchmarks))
    assert "test accuracy in per cent" in readme


TABLES = sorted(path.stem for path in (ROOT / "configs" / "table").glob("*.yaml"))


@functools.cache
def every():
    return every_table(ROOT / "configs")


def test_the_page_of_all_results_has_every_record_and_stays_small():
    found = by_name(read_all(RESULTS))
    page = report(every(), found)
    assert all(f"records/{name}/{run}.json" in page for name, run in found)
    assert len(page) < 3e6


@pytest.mark.parametrize("name", TABLES)
def test_the_figures_in_a_table_are_what_the_committed_records_give(name, tmp_path):
    written = write_table(name, *every()[name], by_name(read_all(RESULTS)), tmp_path)
    for new in written:
        committed = RESULTS / "tables" / new.name
        assert committed.is_file()
        if new.suffix != ".png":
            assert committed.read_text(encoding="utf-8") == new.read_text(encoding="utf-8")


def test_committed_records_come_from_committed_code_and_name_nothing_private():
    for path in (RESULTS / "records").rglob("*.json"):
        record = records.read(path)
        assert path.stem == record["id"] == f"{record['hash']}-seed{record['seed']}"
        assert unfit(record) is None, path
        assert len(record["history"]) == record["epochs"]
        assert path.with_suffix(".png").is_file()


def test_the_digits_are_learnt_by_every_seed():
    """What `make train` promises: at least 0.95 on the test split, within two minutes of training."""
    found = [
        record
        for record in read_all(RESULTS)
        if record["name"] == "digits_legs" and record["config"]["optimizer"]["lr"] == 4e-3
    ]
    assert len(found) >= 3
    assert len({record["hash"] for record in found}) == 1
    for record in found:
        assert record["metrics"]["best"]["test"]["accuracy"] >= 0.95
        assert record["seconds"] < 120


def test_every_model_has_a_row_with_its_seeds():
    collect = load("collect")
    found, timing = read_all(RESULTS), collect.every_benchmark()["models"]
    models = {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")}
    rows = [row for row in collect.every_model(found, timing) if row.startswith("| `") and "`model=`" not in row]
    assert {row.split("`")[1] for row in rows} == models
    assert all(row.count("](records/") >= 2 for row in rows)


def test_a_model_that_was_not_timed_and_a_run_of_another_size_stop_nothing():
    collect = load("collect")
    found, timing = read_all(RESULTS), collect.every_benchmark()["models"]
    before = collect.every_model(found, timing)
    own = copy.deepcopy(next(record for record in found if record["name"] == "digits_gru"))
    own["name"] = "digits_mine"
    other = copy.deepcopy(own)
    other["name"], other["config"]["model"]["hidden_size"] = "digits_gru", 64
    after = collect.every_model([*found, own, other], timing)
    assert [line for line in after if "`mine`" not in line] == before
    assert any("`mine`" in line and line.endswith("| – | – | – |") for line in after)


DONE = {"function_approximation": 4, "pmnist_small": 20, "trajectories": 93}  # runs of tables that have records


@pytest.mark.parametrize("name", TABLES)
def test_no_committed_run_is_lost_to_a_change_of_names(name):
    found = by_name(read_all(RESULTS))
    runs = {run for cell in every()[name][1] for run in cell.runs}
    assert sum((run.name, run.id) in found for run in runs) >= DONE.get(name, 0)


def test_the_command_in_a_record_names_its_run():
    """Of those that today's tables show; older records may go with older defaults, and with experiments that had a
    file for each model."""
    runs = {run for _, filled in every().values() for cell in filled for run in cell.runs}
    found = {run: by_name(read_all(RESULTS)).get((run.name, run.id)) for run in runs}
    commands = {run: record["command"] for run, record in found.items() if record}
    assert len(commands) > 50

    @functools.cache
    def planned(overrides: tuple[str, ...]) -> Run:
        return Run.planned(overrides, hydra.compose("train", list(overrides), return_hydra_config=True))

    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for run, command in commands.items():
            command = re.sub(r"experiment=(pmnist(?:_small)?)_(?!small)(\w+)", r"experiment=\1 model=\2", command)
            overrides = [override.lstrip("+") for override in shlex.split(command)[2:]]
            if sorted(overrides) == sorted(shlex.split(run.command)[2:]):
                continue
            without_seed = tuple(sorted(override for override in overrides if not override.startswith("seed=")))
            again = planned(without_seed).with_seed(run.config["seed"])
            assert f"seed={run.config['seed']}" in overrides
            assert (again.name, again.id) == (run.name, run.id)


LEARNT = {  # test accuracy on the digits after 20 epochs, that every seed reaches
    **dict.fromkeys(("legs", "legt", "fourier", "chebyshev", "lmu", "lmu_gated", "fru", "memory"), 0.95),
    **{"lagt": 0.94, "transformer": 0.85, "exprnn": 0.85, "gru": 0.8, "gru_dt": 0.75, "gru_d": 0.7, "ode_rnn": 0.7},
    **{"mgu": 0.65, "rnn": 0.55, "neural_cde": 0.55, "rand": 0.3, "lstm": 0.25},  # too few epochs, or too rough a path
}


@pytest.mark.parametrize("model", [path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")])
def test_every_model_learns_the_digits_to_its_stated_accuracy(model):
    found = [record for record in read_all(RESULTS) if record["name"] == f"digits_{model}"]
    hashes = [record["hash"] for record in found]
    shown = [record for record in found if record["hash"] == max(hashes, key=hashes.count)]
    assert len(shown) == 3
    assert min(record["metrics"]["best"]["test"]["accuracy"] for record in shown) >= LEARNT[model]
    assert LEARNT[model] > 0.2  # chance is 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"git": {"commit": "a", "dirty": True}}, "committed code"),
        ({"git": {"commit": "a", "dirty": None}}, "committed code"),
        ({"command": None}, "committed code"),
        ({"earlier": [{"git": {"commit": "a", "dirty": True}}]}, "committed code"),
        ({"earlier": [{"git": {"commit": "b", "dirty": False}}]}, "other code"),
        ({"config": {"trainer": {"max_epochs": 2}}}, "its name is not that of the configuration"),
        ({"seed": 1}, "its name is not that of the configuration"),
        ({"hash": None}, "its name is not that of the configuration"),
    ],
)
def test_what_cannot_be_run_again_is_left_out(change, reason):
    good = minimal({"trainer": {"max_epochs": 1}})
    assert unfit(good) is None
    assert reason in unfit(good | change)
    assert "limit_test_batches" in unfit(minimal({"trainer": {"limit_test_batches": 1}}))
    assert unfit({key: value for key, value in good.items() if key != "git"}) == "it lacks 'git'"


def minimal(config: dict) -> dict:
    hash = records.config_hash(config)
    return {
        "command": "python train.py",
        "git": {"commit": "a", "dirty": False},
        "earlier": [{"git": {"commit": "a", "dirty": False}}],
        "config": config,
        "seed": 0,
        "hash": hash,
        "id": f"{hash}-seed0",
    }
