"""Runs side by side: with a script in place of train.py that stands for it, and with the real one, killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
import torch
import yaml
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from hydra.utils import instantiate

from hippo.project import command
from hippo.training import sweeps
from hippo.training.config import ConfigError
from hippo.training.run import run
from hippo.training.sweeps import Run, SweepFailed, train_all
from hydra_plugins.hippo import LocalLauncher, Sweeper

ROOT = Path(__file__).parents[2]
RUNS = int(os.environ.get("HIPPO_SWEEP_RUNS", "4"))
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.default_int_handler)
overrides = dict(override.split("=", 1) for override in sys.argv[1:])
folder = Path(overrides["paths.outputs"], "stand_in", overrides["id"])
print("epoch 1/2   step 3/9, 3 s left", flush=True)
print("epoch 1/2   train loss 1.0", flush=True)
if overrides["does"] == "fail":
    sys.exit("error: it was to fail")
if overrides["does"] == "wait":
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        sys.exit(130)
time.sleep(0.3)
print("epoch 2/2   train loss 0.5\\nbest epoch (2): validation accuracy 1", flush=True)
record = {"began": time.time() - 0.3, "ended": time.time(), "threads": overrides["threads"]}
(folder / "record.json").write_text(json.dumps(record | {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}))
"""


@pytest.fixture
def main(tmp_path):
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return [str(path)]


def plan(outputs: Path, number: int, does: str = "train") -> Run:
    overrides = (f"id=run-{number}", f"does={does}", f"paths.outputs={outputs}")
    config = {"trainer": {"max_epochs": 2}, "threads": None, "force": False, "paths": {"outputs": str(outputs)}}
    return Run(overrides, "stand_in", f"run-{number}", config)


def composed(*overrides: str) -> Run:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return Run.planned(overrides, hydra.compose("train", list(overrides), return_hydra_config=True))


def test_seeds_share_a_configuration_and_the_command_leaves_out_where(tmp_path):
    first = composed("experiment=digits", "model=gru", "seed=3")
    other = first.with_seed(5)
    assert other == composed("experiment=digits", "model=gru", "seed=5")
    assert first.id.partition("-")[0] == other.id.partition("-")[0]
    moved = other.at(tmp_path)
    assert moved.folder == tmp_path / "digits_gru" / other.id
    assert moved.command == other.command == "hippo train experiment=digits model=gru seed=5"
    assert command(["x=[1, 2]"]) == "hippo train 'x=[1, 2]'"
    with pytest.raises(ConfigError, match="seed must lie between 0"):
        first.with_seed(-1)


def test_the_grid_launches_all_combinations_and_tells_every_failure_at_the_end():
    """In batches, the command line after the file's parameters; with a launcher that trains nothing."""
    launched = []

    class Launches:
        def launch(self, job_overrides, initial_job_idx):
            launched.append((initial_job_idx, job_overrides))
            return [self.one(overrides) for overrides in job_overrides]

        def one(self, overrides):
            if overrides != ["model=gru", "seed=1"]:
                return JobReturn(status=JobStatus.COMPLETED, overrides=overrides)
            job = JobReturn(status=JobStatus.FAILED, overrides=overrides)
            job.return_value = ConfigError("out of tune")
            return job

    sweeper = Sweeper(max_batch_size=3, params={"model": "rnn", "seed": "range(2)"})
    sweeper.launcher = Launches()
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        sweeper.config = hydra.compose("train", return_hydra_config=True)
        sweeper.hydra_context = HydraContext(GlobalHydra.instance().config_loader(), Callback())
        with pytest.raises(SweepFailed) as error:
            sweeper.sweep(["model=gru,lstm"])
        with pytest.raises(ConfigError, match=r"optimizer\.lr=interval\(0,1\) is no list of values"):
            sweeper.sweep(["optimizer.lr=interval(0,1)"])
        assert len(sweeper.sweep(["model=lstm"])) == 2
    assert str(error.value) == "1 of 4 runs failed:\n  hippo train model=gru seed=1\n    out of tune"
    gru, lstm = ([[f"model={model}", f"seed={seed}"] for seed in range(2)] for model in ("gru", "lstm"))
    assert launched == [(0, [*gru, lstm[0]]), (3, [lstm[1]]), (0, lstm)]


def test_a_sweep_ends_with_its_table(tmp_path, capsys):
    class Done:
        def launch(self, job_overrides, initial_job_idx):
            return [JobReturn(status=JobStatus.COMPLETED, overrides=overrides) for overrides in job_overrides]

    sweeper = Sweeper()
    sweeper.launcher = Done()
    good = json.loads(next((ROOT / "results" / "records" / "digits_gru").glob("*-seed0.json")).read_text())
    for seed in (0, 1):
        folder = tmp_path / "digits_gru" / f"{good['hash']}-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(good))
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        sweeper.config = hydra.compose("train", [f"paths.outputs={tmp_path}"], return_hydra_config=True)
        sweeper.hydra_context = HydraContext(GlobalHydra.instance().config_loader(), Callback())
        sweeper.sweep(["experiment=digits", "model=gru", "seed=0,1,2", f"paths.outputs={tmp_path}"])
    accuracy = 100 * good["metrics"]["best"]["test"]["accuracy"]
    assert f"| {accuracy:.4g} ({accuracy:.4g}, {accuracy:.4g})" in capsys.readouterr().out
    assert len(list((tmp_path / "sweeps").iterdir())) == 2


def test_a_damaged_record_fails_its_own_run_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "train_all", lambda runs, *_: {})  # they are complete already
    launcher = LocalLauncher()
    overrides = [["experiment=digits", "model=gru", f"seed={seed}", f"paths.outputs={tmp_path}"] for seed in (0, 1)]
    good = json.loads(next((ROOT / "results" / "records" / "digits_gru").glob("*-seed0.json")).read_text())
    for seed, record in enumerate((good, good | {"metrics": {}})):
        folder = tmp_path / "digits_gru" / f"{good['hash']}-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record))
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = hydra.compose("train", return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), Callback())
        launcher.setup(hydra_context=context, task_function=lambda config: None, config=config)
        one, two = launcher.launch(overrides, initial_job_idx=0)
    assert one.status == JobStatus.COMPLETED
    assert one.return_value == good["metrics"]["best"]["validation"]["accuracy"]
    assert two.status == JobStatus.FAILED
    assert "metrics has no best" in sweeps.failure(two)


def test_what_follows_from_the_seed_follows_from_another_seed_too():
    run = composed("experiment=function_approximation").with_seed(3)
    assert run.config["dataset"]["data_seed"] == 3
    again = composed("experiment=function_approximation", "seed=3")
    assert (run, run.config) == (again, again.config)
    assert run.with_seed(4) == again.with_seed(4)


def test_the_state_of_a_run(tmp_path):
    run = plan(tmp_path, 0)
    assert run.state == "missing"
    (run.folder / "checkpoints").mkdir(parents=True)
    with FileLock(run.folder / ".lock"):
        assert run.state == "running"
    assert run.state == "missing"
    (run.folder / "checkpoints" / "last.ckpt").touch()
    assert run.state == "cut"
    (run.folder / "record.json").touch()
    assert run.state == "done"


def test_one_failure_stops_nothing_and_what_is_done_is_not_repeated(tmp_path, main, capsys):
    runs = [plan(tmp_path, number, "fail" if number == 1 else "train") for number in range(5)]
    runs[3].folder.mkdir(parents=True)
    (runs[3].folder / "record.json").write_text("{}")
    each = []
    failures = train_all([*runs, runs[0]], 2, lambda: each.append(1), main)
    assert list(failures) == [runs[1]]
    assert failures[runs[1]].startswith("error: it was to fail (log: ")
    assert len(each) == 4
    assert (runs[3].folder / "record.json").read_text() == "{}"
    written = [json.loads((runs[n].folder / "record.json").read_text()) for n in (0, 2, 4)]
    assert {record["threads"] for record in written} == {str(max(1, sweeps.cores() // 2))}
    text = str(SweepFailed({run.command: why for run, why in failures.items()}, len(runs)))
    assert text.splitlines()[:2] == ["1 of 5 runs failed:", "  hippo train id=run-1 does=fail"]
    assert "epoch 2/2" in (runs[0].folder / "log.txt").read_text()


def test_no_more_run_at_a_time_than_asked_for_and_gpus_are_dealt_out(tmp_path, main, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    runs = [plan(tmp_path, number) for number in range(6)]
    assert train_all(runs, program=main) == {}
    written = [json.loads((run.folder / "record.json").read_text()) for run in runs]
    assert {record["gpu"] for record in written} == {"3", "5"}
    for record in written:
        assert sum(other["began"] < record["began"] < other["ended"] for other in written) <= 1


def test_hidden_gpus_are_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert sweeps.share_out(3, 5) == {0: {}, 1: {}, 2: {}}


def test_an_epoch_is_complete_when_its_loss_is_known():
    assert not sweeps.EPOCH.match("epoch 1/20   step 300/1000, 3 min left")
    assert sweeps.EPOCH.match("epoch 1/20   train loss 0.3   validation accuracy 0.9   3.0 s, 1 min left")[1] == "1"


def test_a_run_that_another_process_is_at_work_on_is_waited_for(tmp_path, main):
    run = plan(tmp_path, 0)
    run.folder.mkdir(parents=True)
    code = f"""
import time
from filelock import FileLock
with FileLock({str(run.folder / ".lock")!r}):
    print("locked", flush=True)
    time.sleep(1.5)
    open({str(run.folder / "record.json")!r}, "w").write("by the other")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert train_all([run], 1, program=main) == {}
        assert other.poll() is not None or run.state == "done"
    assert (run.folder / "record.json").read_text() == "by the other"


def test_an_interrupt_is_passed_on(tmp_path, main):
    runs = [plan(tmp_path, number, "wait") for number in range(2)]
    code = f"""
from pathlib import Path
from tests.training.test_sweeps import plan
from hippo.training.sweeps import train_all
train_all([plan(Path({str(tmp_path)!r}), n, "wait") for n in range(2)], 2, program={main!r})
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    logs = [run.folder / "log.txt" for run in runs]
    while not all(log.is_file() and "epoch" in log.read_text() for log in logs):
        assert time.monotonic() < end
        time.sleep(0.1)
    driver.send_signal(signal.SIGTERM)
    said, errors = driver.communicate(timeout=60)
    assert driver.returncode == 143
    assert "the same command goes on" in said
    assert "Traceback" not in errors
    assert all((run.folder / "interrupted").exists() for run in runs)


def test_the_sweep_for_wandb_asks_for_runs_that_can_be_made():
    spec = yaml.safe_load((ROOT / "configs" / "wandb_sweep.yaml").read_text())
    assert (ROOT / spec["program"]).is_file()
    assert "${args_no_hyphens}" in spec["command"]
    values = {key: what.get("value", what.get("values", [what.get("min")])) for key, what in spec["parameters"].items()}
    run = composed(*(f"{key}={value[0] if isinstance(value, list) else value}" for key, value in values.items()))
    assert run.name == "digits_lmu"
    assert run.config["optimizer"]["lr"] == spec["parameters"]["optimizer.lr"]["min"]
    record = json.loads(next((ROOT / "results" / "records" / "digits_lmu").glob("*.json")).read_text())
    reading, split, metric = spec["metric"]["name"].split("/")
    assert 0 < record["metrics"][reading][split][metric] <= 1


class Valley:
    """A launcher that trains nothing: what a run comes to is known from its overrides; it may be killed."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.launched, self.killed_at = [], killed_at

    def launch(self, job_overrides, initial_job_idx):
        if initial_job_idx == self.killed_at:
            raise KeyboardInterrupt
        self.launched.append((initial_job_idx, job_overrides))
        return [self.one(overrides) for overrides in job_overrides]

    def one(self, overrides):
        values = dict(override.split("=") for override in overrides)
        job = JobReturn(status=JobStatus.COMPLETED, overrides=overrides)
        job.return_value = -abs(float(values["optimizer.lr"]) - 0.01) - (values["trainer.gradient_clip_val"] == "3")
        return job


@pytest.fixture
def search(tmp_path):
    """The function (launcher, *overrides of the sweeper) -> the trials that it launched, with `model=gru`."""
    pytest.importorskip("optuna")

    def search(launcher, *settings):
        with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            options = ["hydra/sweeper=search", "hydra.sweeper.n_trials=8", f"paths.outputs={tmp_path}", *settings]
            config = hydra.compose("train", options, return_hydra_config=True)
            sweeper = instantiate(config.hydra.sweeper)
            sweeper.launcher, sweeper.config = launcher, config
            sweeper.hydra_context = HydraContext(GlobalHydra.instance().config_loader(), Callback())
            sweeper.sweep(["model=gru"])
        return launcher.launched

    return search


def test_a_search_proposes_in_batches_what_it_is_told_to_and_names_the_best(search, tmp_path, capsys):
    launched = search(Valley())
    assert [first for first, _ in launched] == [0, 4]
    trials = [dict(o.split("=") for o in overrides) for _, batch in launched for overrides in batch]
    assert all(3e-4 <= float(trial["optimizer.lr"]) <= 3e-2 for trial in trials)
    assert all(trial["trainer.gradient_clip_val"] in ("0.3", "1", "3") for trial in trials)
    assert all(trial["model"] == "gru" for trial in trials)
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    values = [Valley().one([f"{k}={v}" for k, v in trial.items()]).return_value for trial in trials]
    assert found["best_value"] == max(values)
    assert f"hippo train model=gru optimizer.lr={found['best_params']['optimizer.lr']}" in capsys.readouterr().out
    assert str(found["best_params"]["optimizer.lr"]) == trials[values.index(max(values))]["optimizer.lr"]
    assert search(Valley()) == launched  # the same seed
    assert search(Valley(), "hydra.sweeper.sampler.seed=1") != launched


def test_a_stored_search_that_is_killed_goes_on_as_if_it_had_not_been(search, tmp_path):
    """In the midst of a batch; and with more trials once it is done."""
    whole = search(Valley())
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path}/search.db"
    with pytest.raises(KeyboardInterrupt):
        search(Valley(killed_at=4), storage)
    assert search(Valley(), storage) == whole[1:]
    assert search(Valley(), storage) == []
    (more,) = search(Valley(), storage, "hydra.sweeper.n_trials=10")
    assert (more[0], len(more[1])) == (8, 2)


@pytest.mark.parametrize("storage", ["sqlite:////nowhere/x.db", "sqlite:///{}/damaged.db", "nonsense", "redis://x"])
def test_a_search_that_cannot_be_stored_is_one_sentence(search, tmp_path, storage):
    (tmp_path / "damaged.db").write_bytes(b"no database" * 400)
    with pytest.raises(ConfigError, match=r"no study can be kept with storage=.*sqlite:///FILE") as error:
        search(Valley(), f"hydra.sweeper.storage={storage.format(tmp_path)}")
    assert "\n" not in str(error.value)


def test_a_search_stops_where_too_many_fail_and_tells_why(search):
    class Fails(Valley):
        def one(self, overrides):
            job = JobReturn(status=JobStatus.FAILED, overrides=overrides)
            job.return_value = ConfigError("out of tune")
            return job

    with pytest.raises(SweepFailed, match=r"4 of 4 runs failed:\n  hippo train model=gru .*\n    out of tune"):
        search(Fails())


@pytest.mark.slow
def test_a_search_from_the_command_line(tmp_path):
    pytest.importorskip("optuna")
    search = ["experiment=digits", "model=gru", "model.hidden_size=4", "trainer.max_epochs=1", "hydra/sweeper=search"]
    few = ["hydra.sweeper.n_trials=1", f"paths.outputs={tmp_path}", "logger=none"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "-m", *search, *few], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    (found,) = [json.loads(path.read_text()) for path in tmp_path.rglob("record.json")]
    assert best["best_value"] == found["metrics"]["best"]["validation"]["accuracy"]
    assert best["best_params"]["optimizer.lr"] == found["config"]["optimizer"]["lr"]


def sweep(outputs: Path) -> list[str]:
    return [
        *(sys.executable, str(ROOT / "train.py"), "-m", "experiment=digits", "model=gru", "model.hidden_size=4"),
        *("trainer.max_epochs=3", f"seed=range({RUNS})", f"paths.outputs={outputs}", "logger=none"),
    ]


def records(outputs: Path) -> dict[str, dict]:
    found = {path.parent.name: json.loads(path.read_text()) for path in outputs.rglob("record.json")}
    return {run: {key: record[key] for key in ("metrics", "confusion", "epochs")} for run, record in found.items()}


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_what_undisturbed_runs_do(tiny, tmp_path):
    """Its runs go on without it; the next driver waits for those, and starts the others."""
    chance = random.Random(0)
    killed = 0
    while killed < 3:
        before = len(records(tmp_path / "killed"))
        driver = subprocess.Popen(sweep(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        logs = (tmp_path / "killed").glob
        while driver.poll() is None and not [log for log in logs("*/*/log.txt") if log.stat().st_size]:
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 2 + 0.3 * RUNS))
        if driver.poll() is not None:
            break  # it was done already
        driver.kill()
        driver.wait()
        killed += 1
        assert len(records(tmp_path / "killed")) >= before
    assert killed
    done = subprocess.run(sweep(tmp_path / "killed"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for seed in range(RUNS):
        run(tiny("model=gru", "model.hidden_size=4", f"seed={seed}", f"paths.outputs={tmp_path / 'undisturbed'}"))
    assert len(records(tmp_path / "killed")) == RUNS
    assert records(tmp_path / "killed") == records(tmp_path / "undisturbed")
