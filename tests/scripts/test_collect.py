"""Results: each figure comes from a record."""

import functools
import re
import shlex
from pathlib import Path

import hydra
import pytest

from hippo.tables.collect import by_name, read_all, unfit
from hippo.tables.report import report
from hippo.tables.table import every_table
from hippo.training import records
from hippo.training.sweeps import Run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


TABLES = sorted(path.stem for path in (ROOT / "configs" / "table").glob("*.yaml"))


@functools.cache
def every():
    return every_table(ROOT / "configs")


def test_the_page_of_all_results_has_every_record_and_stays_small():
    found = by_name(read_all(RESULTS))
    page = report(every(), found)
    assert all(f"records/{name}/{run}.json" in page for name, run in found)
    assert len(page) < 3e6


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


def test_the_check_fails_with_a_sentence_for_each_fault(checkout, python):
    (checkout / "README.md").write_text("2.5 s<!-- results/benchmarks/none.json: seconds -->\n")
    process = python("scripts/collect.py", "--check")
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert len(said) == 2
    assert said[0].endswith("is not what the records give; write it anew by python scripts/collect.py")
    assert "2.5 is tied to results/benchmarks/none.json: seconds, which cannot be read" in said[1]


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
