"""The tables of this project, and the records that are committed for them."""

import functools
import json
import re
import shlex
from pathlib import Path

import hydra
import pytest
from hydra.utils import instantiate

from hippo.tables.collect import by_name, read_all
from hippo.tables.describe import added
from hippo.tables.report import report
from hippo.tables.table import every_table
from hippo.training.build import misfit
from hippo.training.sweeps import Run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
TABLES = sorted(path.stem for path in (ROOT / "configs" / "table").glob("*.yaml"))


@functools.cache
def every():
    return every_table(ROOT / "configs", checked=True)


def test_the_page_of_all_results_has_every_record_and_stays_small():
    found = by_name(read_all(RESULTS))
    page = report(every(), found)
    assert all(f"records/{name}/{run}.json" in page for name, run in found)
    assert len(page) < 3e6


DONE = {
    "lineage_rates": 31,
    "function_approximation": 16,
    "pmnist": 1,
    "pmnist_short": 13,
    "trajectories": 117,
}  # runs of tables that have records


@pytest.mark.parametrize("name", TABLES)
def test_no_committed_run_is_lost_to_a_change_of_names(name):
    found = by_name(read_all(RESULTS))
    runs = {run for cell in every()[name][1] for run in cell.runs}
    assert sum((run.name, run.id) in found for run in runs) >= DONE.get(name, 0)


def test_the_command_in_a_record_names_its_run():
    """Of those that today's tables show; older records may go with older defaults, and with experiments that had a
    file for each model."""
    runs = {run for _, filled in every().values() for cell in filled for run in cell.runs}
    found = by_name(read_all(RESULTS))
    shown = {run: found[run.name, run.id] for run in runs if (run.name, run.id) in found}
    commands = {run: record["command"] for run, record in shown.items() if not added(record)}
    assert len(commands) > 50

    @functools.cache
    def planned(overrides: tuple[str, ...]) -> Run:
        return Run.planned(overrides, hydra.compose("train", list(overrides), return_hydra_config=True))

    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for run, command in commands.items():
            experiment = re.search(r"experiment=(\w+)", command)
            if experiment and not (ROOT / "configs" / "experiment" / f"{experiment[1]}.yaml").exists():
                command = re.sub(r"experiment=(pmnist(?:_small)?)_(\w+)", r"experiment=\1 model=\2", command)
            overrides = [override.lstrip("+") for override in shlex.split(command)[2:]]
            if sorted(overrides) == sorted(shlex.split(run.command)[2:]):
                continue
            without_seed = tuple(sorted(override for override in overrides if not override.startswith("seed=")))
            again = planned(without_seed).with_seed(run.config["seed"])
            assert f"seed={run.config['seed']}" in [*overrides, "seed=0"]
            assert (again.name, again.id) == (run.name, run.id)


def test_every_table_names_configurations_that_can_be_run():
    for table, found in every().values():
        assert any(cell.runs for cell in found)
        for cell in found:
            trained = table.rows[cell.row].overrides is not None and table.columns[cell.column].overrides is not None
            assert bool(cell.runs) == trained


def test_every_run_of_the_table_of_rates_would_start(trajectories_root):
    """Model and data go together, and the model takes the first steps of two sequences."""
    runs = [run.config for cell in every()["lineage_rates"][1] for run in cell.runs if run.config["seed"] == 0]
    plans = {json.dumps([config["model"], config["dataset"]], sort_keys=True): config for config in runs}
    assert len(plans) == 3 * len(every()["lineage_rates"][0].rows)
    read = {}
    for plan in plans.values():
        key = json.dumps(plan["dataset"], sort_keys=True)
        if key not in read:
            read[key] = (dataset := instantiate(plan["dataset"])), dataset.load(trajectories_root)
        dataset, splits = read[key]
        model = instantiate(plan["model"], input_size=splits.train.everything.x.shape[2])
        misfit(model, dataset, splits)
        x, _, timestamps, mask, lengths = splits.train.everything
        timestamps, mask = (None if v is None else v[:2, :9] for v in (timestamps, mask))
        lengths = None if lengths is None else lengths[:2].clamp(max=9)
        assert model(x[:2, :9], timestamps, mask=mask, lengths=lengths).isfinite().all()


def test_trajectories_are_the_papers():
    """Figures and protocol of the paper's second table."""
    table, filled = every()["trajectories"]
    assert [row.label for name, row in table.rows.items() if not name.endswith("_gate")] == [
        *(f"{name}{unit}" for name in ("LSTM", "GRU", "GRU-D", "ODE-RNN", "Neural CDE", "LMU")
          for unit in ("", ", time in seconds")), "HiPPO-LegS", "LegS memory, linear read-out",
        "LegS layers without feedback",
    ]  # fmt: skip
    assert len(table.columns) == 7
    assert table.rows["legs"].reported["rate_up"] == (88.8, "third-hand")
    assert table.rows["lmu"].reported["rate_up"] == (6.0, "recalled")
    for cell in filled:
        config = cell.runs[0].config
        ours = ("memory", "scale_convolution")
        assert len(cell.runs) == (3 if cell.row in ("legs", *ours) else 2)
        assert config["trainer"]["max_epochs"] == (40 if cell.row == "scale_convolution" else 100)
        model = cell.row.removesuffix("_seconds").removesuffix("_gate")
        rate = {"neural_cde": 1e-3 * 100 / 32, "memory": 3e-2, "scale_convolution": 3e-3}.get(model, 1e-3)
        # That of Neural CDE is as its authors have it.
        rate = 1e-4 if cell.row == "ode_rnn" else rate  # at 1e-3 its loss grows
        assert config["optimizer"] == {"_target_": "torch.optim.Adam", "lr": rate}
        assert config["dataset"]["batch_size"] == 100
        assert config["model"]["hidden_size"] == {"neural_cde": 32, "memory": 16, "scale_convolution": 64}.get(
            model, 256
        )
        shift = table.columns[cell.column].shift
        assert shift is None or config["dataset"]["shifts"][shift] is not None
        timed = cell.column.startswith(("time", "drop"))
        if model in ("gru_d", "ode_rnn", "neural_cde"):
            assert config["dataset"]["timestamps"] == "separate"
            assert config["model"]["unit"] == (200 if cell.row.endswith("seconds") else 1)
        elif timed:
            own = "separate" if model in ("legs", *ours) else "channel" if cell.row.endswith("seconds") else "index"
            assert config["dataset"]["timestamps"] == ("separate" if cell.row.endswith("_gate") else own)
            assert config["model"].get("gate_unit") == (1 if cell.row.endswith("_gate") else None)
        else:
            assert config["dataset"]["timestamps"] is None
