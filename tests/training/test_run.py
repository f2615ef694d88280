"""Runs: reproducible, resumable, recorded once, and tested at the end only."""

import contextlib
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from filelock import FileLock
from hydra.utils import instantiate

from hippo import HiPPO, locks
from hippo.data import Batch, DataError, Digits, Sequences, WhiteNoise
from hippo.locks import Held
from hippo.training import processes, records
from hippo.training.config import ConfigError, check
from hippo.training.curves import draw_confusion
from hippo.training.errors import explain
from hippo.training.learner import Divergence, SequenceLearner
from hippo.training.run import run, summary

from .conftest import TINY

ROOT = Path(__file__).parents[2]
TIMELESS = ("metrics", "confusion", "config", "hash", "id", "parameters", "epochs")


def folder_of(config) -> Path:
    values = check(config)
    return Path(values["paths"]["outputs"]) / values["name"] / records.identity(values)


def same(first: dict, second: dict) -> bool:
    """Whether two records agree to the last bit in all but time and place."""

    def timeless(record: dict) -> list:
        epochs = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["history"]]
        return [epochs, *(record[key] for key in TIMELESS)]

    return timeless(first) == timeless(second)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    """The record of a tiny run, made by train.py itself, that nothing happened to."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    return records.read(train(outputs))


def command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *TINY, "logger=none", f"paths.outputs={outputs}", *overrides]


def train(outputs: Path, *overrides: str) -> Path:
    done = subprocess.run(command(outputs, *overrides), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = outputs.glob("*/*/record.json")
    return path


def test_a_record_holds_what_a_table_needs(undisturbed):
    record = undisturbed
    assert record["schema"] == records.SCHEMA
    assert record["name"] == "digits_legs"
    assert record["id"] == f"{record['hash']}-seed0"
    assert record["command"] == "hippo train experiment=digits model.hidden_size=8 trainer.max_epochs=3 trainer=cpu"
    assert record["epochs"] == len(record["history"]) == 3
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2, 3]
    assert record["metrics"]["last"]["epoch"] == 3
    best = max(record["history"], key=lambda epoch: epoch["validation/accuracy"])
    assert record["metrics"]["best"]["epoch"] == best["epoch"]
    assert record["metrics"]["best"]["validation"]["accuracy"] == best["validation/accuracy"]
    counts = torch.tensor(record["confusion"])
    assert counts.sum() == 270
    assert counts.diagonal().sum() / 270 == pytest.approx(record["metrics"]["best"]["test"]["accuracy"], abs=1e-6)
    assert record["seconds"] > 0
    assert record["peak_memory"]["host"] > 0
    assert record["route"] == "cpu"
    assert record["git"]["commit"] is None or len(record["git"]["commit"]) == 40
    assert "paths" not in record["config"]
    assert str(Path.home()) not in json.dumps(record)


@pytest.mark.parametrize("count", [2, 20, 70])
def test_any_number_of_classes_is_drawn(undisturbed, tmp_path, count):
    names = [f"class {k}" for k in range(count)]
    confusion = torch.eye(count, dtype=torch.int64).tolist()
    draw_confusion(undisturbed | {"classes": names, "confusion": confusion}, tmp_path / "confusion.png")
    width, height = struct.unpack(">II", (tmp_path / "confusion.png").read_bytes()[16:24])
    assert 250 < height <= width < 2600


def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(undisturbed, tiny):
    assert same(run(tiny()), undisturbed)
    assert not same(run(tiny("seed=1")), undisturbed)


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_if_it_had_not_been(tiny, tmp_path):
    """With a learning rate that is another one at every step."""
    schedule = "scheduler=one_cycle"
    process = subprocess.Popen(command(tmp_path, schedule), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.005)  # the second epoch, which begins when the first is saved, takes a hundred times as long
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(tmp_path.glob("*/*/record.json"))
    record = records.read(train(tmp_path, schedule))
    assert record["resumed"] == 1
    assert same(record, run(tiny(schedule)))


@pytest.mark.parametrize("epochs", [1, 2])
def test_resuming_after_any_epoch_changes_nothing(undisturbed, tiny, cut, epochs):
    """An interruption at the beginning of an epoch's first step, with everything before it on disk."""
    config = tiny()
    cut(config, epochs)
    assert not (folder_of(config) / "record.json").exists()
    record = run(config)
    assert record["resumed"] == 1
    assert same(record, undisturbed)


def test_a_run_cut_between_training_and_testing_is_tested_without_training_again(undisturbed, tiny, monkeypatch):
    config = tiny()
    monkeypatch.setattr(SequenceLearner, "test_step", _power_cut)
    with pytest.raises(KeyError, match="power cut"):
        run(config)
    monkeypatch.undo()
    monkeypatch.setattr(SequenceLearner, "training_step", lambda *_: pytest.fail("trained again"))
    assert same(run(config), undisturbed)


def test_a_model_with_dropout_resumes_to_the_same_numbers(tiny, monkeypatch, tmp_path):
    """Its random numbers do not live in a checkpoint: they are made anew from seed and epoch."""
    forward = SequenceLearner.forward

    def with_dropout(self, batch):
        return torch.nn.functional.dropout(forward(self, batch), 0.5, self.training)

    monkeypatch.setattr(SequenceLearner, "forward", with_dropout)
    whole = run(tiny(f"paths.outputs={tmp_path / 'whole'}"))
    with monkeypatch.context() as context:
        context.setattr(SequenceLearner, "on_train_epoch_start", _cut_in_third_epoch)
        with pytest.raises(KeyError):
            run(tiny())
    assert same(run(tiny()), whole)


def _cut_in_third_epoch(self):
    if self.current_epoch == 2:
        raise KeyError


def _power_cut(*_):
    raise KeyError("power cut")


def test_a_complete_run_is_shown_and_not_repeated_without_writing_anything(tiny, capsys, monkeypatch):
    """As where the outputs are read-only, which does not hinder root, as whom tests may run."""
    config = tiny()
    first = run(config)
    for module, name in ((pl.Trainer, "fit"), (locks, "hold"), (Path, "mkdir")):
        monkeypatch.setattr(module, name, None)
    assert run(config) == first
    assert "is complete" in capsys.readouterr().out


def test_the_record_is_written_where_the_system_does_not_tell_memory_and_no_picture_can_be_drawn(tiny, monkeypatch):
    config = tiny("trainer.max_epochs=1")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("hippo.training.run.draw_curves", _power_cut)
    with pytest.raises(KeyError, match="power cut"):
        run(config)
    assert "host" not in records.read(folder_of(config) / "record.json")["peak_memory"]


def test_force_starts_over(tiny):
    config = tiny()
    first = run(config)
    record_file = folder_of(config) / "record.json"
    record_file.write_text(record_file.read_text().replace('"resumed": 0', '"resumed": 7'))
    assert run(config)["resumed"] == 7
    again = run(tiny("force=true"))
    assert again["resumed"] == 0
    assert same(again, first)


def test_two_processes_never_share_a_run(tiny):
    config = tiny()
    folder = folder_of(config)
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(Held, match="another process is at work"):
        run(config)


def test_what_another_process_completes_meanwhile_is_not_run_again(tiny, undisturbed):
    config = tiny()
    folder = folder_of(config)
    folder.mkdir(parents=True)
    held = FileLock(folder / ".lock", thread_local=False)
    held.acquire()

    def complete() -> None:
        records.write(folder / "record.json", undisturbed)
        held.release()

    threading.Timer(0.3, complete).start()
    assert run(config) == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_told_to_stop_says_how_to_go_on(tmp_path, number, code):
    """With more epochs than there is time for, the signal always comes in the middle."""
    process = subprocess.Popen(
        command(tmp_path, "trainer.max_epochs=10000"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("epoch 2/"):
            process.send_signal(number)
    assert process.wait() == code
    assert "the same command goes on from the last complete epoch" in said
    assert list(tmp_path.glob("*/*/checkpoints/last.ckpt"))


def test_a_damaged_record_is_named(tiny):
    config = tiny()
    folder_of(config).mkdir(parents=True)
    (folder_of(config) / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not a record.*Delete it"):
        run(config)


def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_its_best_and_ends_the_same(
    tiny, wrecked, monkeypatch, capsys, tmp_path
):
    """By one flipped bit, in the weights of the read-out."""
    whole = run(tiny(*wrecked, f"paths.outputs={tmp_path / 'whole'}"))
    config = tiny(*wrecked)
    checkpoints = folder_of(config) / "checkpoints"
    with monkeypatch.context() as context:
        context.setattr(SequenceLearner, "test_step", _power_cut)
        with pytest.raises(KeyError):
            run(config)
    last = checkpoints / "last.ckpt"
    content = bytearray(last.read_bytes())
    weights = torch.load(last, weights_only=True)["state_dict"]["head.weight"].numpy().tobytes()
    assert content.count(weights) == 1
    content[content.find(weights)] ^= 16
    last.write_bytes(content)
    record = run(config)
    said = capsys.readouterr().out
    assert "last.ckpt is damaged (the checksum of" in said
    assert "resuming from " + str(checkpoints / "best.ckpt") in said
    assert same(record, whole)
    assert record["metrics"]["best"]["epoch"] < 3


def test_a_checkpoint_that_cannot_be_taken_up_is_named_with_what_to_do(tiny, monkeypatch):
    config = tiny("trainer.max_epochs=1", "+trainer.limit_train_batches=1")
    with monkeypatch.context() as context:
        context.setattr(SequenceLearner, "test_step", _power_cut)
        with pytest.raises(KeyError):
            run(config)
    last = folder_of(config) / "checkpoints" / "last.ckpt"
    torch.save(torch.load(last) | {"loops": {}}, last)
    with pytest.raises(ConfigError, match=r"last\.ckpt cannot be gone on from \(KeyError: 'fit_loop'\).*force=true"):
        run(config)


def test_a_full_disk_while_saving_leaves_the_checkpoint_before(undisturbed, tiny, monkeypatch):
    config = tiny()
    fsync, calls = os.fsync, []

    def full(descriptor):
        """The second epoch's checkpoints do not fit; the first file that is synced is the configuration."""
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        run(config)
    assert "type the same command again" in explain(error.value)
    monkeypatch.undo()
    files = {path.name for path in (folder_of(config) / "checkpoints").iterdir()}
    assert files == {"best.ckpt", "last.ckpt"}
    record = run(config)
    assert record["resumed"] == 1
    assert same(record, undisturbed)


@pytest.fixture
def wrecked(monkeypatch):
    """Weights thrown away in the last epoch, so that the best epoch is an earlier one, and well apart."""
    step = SequenceLearner.training_step

    def wrecking(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 25:
            for parameter in self.parameters():
                parameter.data.fill_(1.0)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SequenceLearner, "training_step", wrecking)
    return ("model.hidden_size=32", "optimizer.lr=0.02")


def test_each_reading_is_that_of_its_own_weights(tiny, wrecked):
    record = run(tiny(*wrecked))
    best, last = (record["metrics"][reading] for reading in ("best", "last"))
    assert best["epoch"] < last["epoch"] == 3
    assert best["test"]["accuracy"] > 0.3 > 0.2 > last["test"]["accuracy"]
    assert torch.tensor(record["confusion"]).diagonal().sum() / 270 == pytest.approx(best["test"]["accuracy"], abs=1e-6)


def test_a_folder_may_move_between_interruption_and_resumption(tiny, wrecked, tmp_path, monkeypatch):
    whole = run(tiny(*wrecked, f"paths.outputs={tmp_path / 'whole'}"))
    with monkeypatch.context() as context:
        context.setattr(SequenceLearner, "on_train_epoch_start", _cut_in_third_epoch)
        with pytest.raises(KeyError):
            run(tiny(*wrecked, f"paths.outputs={tmp_path / 'before'}"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert same(run(tiny(*wrecked, f"paths.outputs={tmp_path / 'after'}")), whole)


def test_a_checkpoint_of_another_epoch_than_the_history_names_is_refused(tiny, wrecked, monkeypatch):
    config = tiny(*wrecked)
    monkeypatch.setattr(SequenceLearner, "test_step", _power_cut)
    with pytest.raises(KeyError):
        run(config)
    monkeypatch.undo()
    checkpoints = folder_of(config) / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", checkpoints / "best.ckpt")
    with pytest.raises(ConfigError, match=r"best\.ckpt holds epoch 3"):
        run(config)


def test_weights_that_are_not_those_of_the_recorded_validation_are_refused(tiny, monkeypatch):
    """Whatever made them so: here somebody changes one weight of the kept epoch."""
    config = tiny("trainer.max_epochs=1")
    monkeypatch.setattr(SequenceLearner, "test_step", _power_cut)
    with pytest.raises(KeyError):
        run(config)
    monkeypatch.undo()
    path = folder_of(config) / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["head.bias"][0] += 0.5
    torch.save(checkpoint, path)
    with pytest.raises(ConfigError, match=r"best\.ckpt give the validation loss .* not the same weights.*force=true"):
        run(config)
    assert not (folder_of(config) / "record.json").exists()


def test_an_early_stopped_run_stays_stopped_when_cut_before_its_end(tiny, monkeypatch):
    overrides = ("patience=1", "optimizer.lr=0.0")
    config = tiny(*overrides)
    monkeypatch.setattr(SequenceLearner, "test_step", _power_cut)
    with pytest.raises(KeyError, match="power cut"):
        run(config)
    monkeypatch.undo()
    assert run(config)["epochs"] == 2


def test_a_record_names_every_process_that_worked_on_the_run(tiny, monkeypatch):
    config = tiny()
    provenance = records.provenance()
    dirty = provenance | {"git": {"commit": "f" * 40, "dirty": True}}
    with monkeypatch.context() as context:
        context.setattr(records, "provenance", lambda: dirty)
        context.setattr(SequenceLearner, "on_train_epoch_start", _cut_in_third_epoch)
        with pytest.raises(KeyError):
            run(config)
    monkeypatch.setattr(records, "provenance", lambda: provenance)
    record = run(config)
    assert record["git"] == provenance["git"]
    assert [session["git"] for session in record["earlier"]] == [dirty["git"]]


def test_the_test_split_is_read_only_after_training(tiny, monkeypatch, wrecked):
    """And validation is the validation split: which data are read is told by their identity, not by their size."""
    reads = []
    take = Sequences.__getitems__

    def watched(self, indices):
        reads.append(id(self))
        return take(self, indices)

    loaded = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, root: loaded.append(load(self, root)) or loaded[-1])
    monkeypatch.setattr(Sequences, "__getitems__", watched)
    run(tiny(*wrecked))
    (splits,) = loaded
    batches = {"train": 26, "validation": 6, "test": 6}
    names = {id(getattr(splits, name)): name for name in batches}
    order = [names[read] for read in reads]
    epoch = ["train"] * batches["train"] + ["validation"] * batches["validation"]
    kept = ["validation"] * batches["validation"]  # compared with what was recorded
    assert order == epoch * 3 + kept + ["test"] * (2 * batches["test"] + 1)  # best and last weights, and the speed


def test_a_diverging_run_stops_with_advice_and_leaves_no_record(tiny):
    config = tiny("model.discretization=euler", "model.memory_order=256", "trainer.max_epochs=1")
    with pytest.raises(Divergence, match=r"Lower optimizer\.lr"):
        run(config)
    assert not (folder_of(config) / "record.json").exists()
    assert not (folder_of(config) / "checkpoints" / "last.ckpt").exists()


def test_a_run_whose_weights_are_lost_at_its_last_step_is_a_divergence_too(tiny):
    """The training loss is of the weights before the step."""
    config = tiny("optimizer.lr=1e30", "trainer.max_epochs=1", "+trainer.limit_train_batches=2")
    with pytest.raises(Divergence, match="the validation loss became nan in epoch 1"):
        run(config)
    assert not (folder_of(config) / "record.json").exists()


def test_training_stops_early_where_patience_runs_out(tiny):
    record = run(tiny("patience=1", "optimizer.lr=0.0"))
    assert record["epochs"] == 2
    assert record["metrics"]["best"]["epoch"] == 1


def test_a_batch_size_that_processes_cannot_share_is_refused(tiny):
    with pytest.raises(ConfigError, match="batch_size=0"):
        run(tiny("dataset.batch_size=0"))


def test_checkpoints_hold_weights_and_no_tables(tiny):
    config = tiny("trainer.max_epochs=1")
    record = run(config)
    checkpoint = torch.load(folder_of(config) / "checkpoints" / "last.ckpt", weights_only=False)
    assert sum(tensor.numel() for tensor in checkpoint["state_dict"].values()) == record["parameters"]


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_leave_none_and_go_on_to_what_one_process_comes_to(tiny, tmp_path):
    """The batch is shared out, so two processes take the same steps; sums in another order round differently."""
    whole_batches = ["+trainer.limit_train_batches=25"]
    alone = run(tiny(*whole_batches))
    two = command(tmp_path, *whole_batches, "trainer=ddp", "trainer.accelerator=cpu")
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1"}
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(two, cwd=ROOT, env=environment, start_new_session=True, **output)
    while first.poll() is None and not list(tmp_path.glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.005)
    first.kill()
    first.wait()
    killed = time.monotonic()
    while alive(first.pid):
        assert time.monotonic() - killed < 15
        time.sleep(0.1)
    assert not list(tmp_path.glob("*/*/record.json"))
    whole = [argument.replace(str(tmp_path), str(tmp_path / "whole")) for argument in two]
    for arguments in (two, whole):
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    record, undisturbed = (records.read(*folder.glob("*/*/record.json")) for folder in (tmp_path, tmp_path / "whole"))
    assert [record["resumed"], undisturbed["resumed"]] == [1, 0]
    metrics = [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in record["history"]]
    assert metrics == [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in undisturbed["history"]]
    assert record["metrics"] == undisturbed["metrics"]
    assert record["processes"] == 2
    assert record["id"] == alone["id"]
    assert sum(map(sum, record["confusion"])) == 270
    for epoch, expected in zip(record["history"], alone["history"], strict=True):
        for metric in ("train/loss", "validation/loss"):
            assert epoch[metric] == pytest.approx(expected[metric], rel=1e-5)


def alive(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgid = path.read_text().rpartition(")")[2].split()[:3]
            if int(pgid) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def test_what_the_first_process_started_ends_with_it_whatever_it_waits_for(tmp_path):
    """With a first process that starts a second, which waits as for a greeting, and is killed."""
    stub = "u = types.ModuleType('u'); u.rank_zero_only = types.SimpleNamespace(rank=1)"  # Lightning takes its time
    second = (
        f"import runpy, sys, time, types; {stub}\n"
        "sys.modules |= {'pytorch_lightning': u, 'pytorch_lightning.utilities': u}\n"
        f"runpy.run_path({str(processes.__file__)!r})['end_together'](); print(1, flush=True); time.sleep(600)"
    )
    first = (
        "import os, subprocess, sys, time; os.environ['HIPPO_FIRST_PROCESS'] = str(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {second!r}]); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", first], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    assert len(alive(process.pid)) == 2
    process.kill()
    process.wait()
    killed = time.monotonic()
    while alive(process.pid):
        assert time.monotonic() - killed < 5
        time.sleep(0.05)


def test_the_library_does_without_what_runs_need_and_what_runs_says_how_to_get_it():
    """As where nothing but the package's own dependencies is installed."""
    program = (
        "import sys; from hippo import extras\n"
        "sys.modules |= dict.fromkeys([*extras._EXTRAS['train'], 'numba', 'threadpoolctl', 'yaml'])\n"
        "import hippo.models, hippo.mixers, hippo.fidelity; from hippo import HiPPO\n"
        "from hippo.models import GRU; import torch; assert GRU(3, 4)(torch.ones(2, 5, 3)).shape == (2, 4)\n"
        "for name in ('data', 'training', 'tables'):\n"
        "    try: __import__(f'hippo.{name}')\n"
        "    except extras.Missing as error: print(error)\n"
        "from hippo.commands import main; main(['train'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for who, said in zip(
        ("hippo.data", "hippo.training", "hippo.tables", "error: hippo train"),
        [*done.stdout.splitlines(), done.stderr.strip()],
        strict=True,
    ):
        assert said.startswith(f"{who} needs filelock, hydra, ")
        assert said.endswith(": pip install 'hippo-memory[train]'")


def test_mistakes_end_train_py_with_one_sentence_and_no_folder(tmp_path):
    done = subprocess.run(
        command(tmp_path / "outputs", "model.hiden_size=3"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: model.hiden_size: there is no such key; did you mean hidden_size?\n"
    assert not (tmp_path / "outputs").exists()


def test_help_shows_what_can_be_chosen():
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for words in (
        "dataset: arrays, character_trajectories, digits, ",
        "scheduler: cosine, none, one_cycle",
        "model: chebyshev, exprnn, ",
        "pmnist_legs",
        "hidden_size",
        "-m key=a,b,c runs",
    ):
        assert words in done.stdout


def test_a_mnist_run_takes_steps(data_root, compose):
    """The paper's experiment on the real files, cut to three steps."""
    record = run(
        compose(
            "experiment=pmnist_legs",
            f"paths.data={data_root}",
            "model.hidden_size=8",
            "trainer.max_epochs=1",
            *(f"+trainer.limit_{part}_batches={count}" for part, count in (("train", 3), ("val", 1), ("test", 1))),
            "logger=none",
            "trainer=cpu",
        )
    )
    assert record["config"]["trainer"]["limit_train_batches"] == 3
    assert sum(map(sum, record["confusion"])) == 100


SHIFTED = [
    "experiment=trajectories",
    "dataset.timestamps=separate",
    "model.hidden_size=4",
    "trainer.max_epochs=3",
    "+trainer.limit_train_batches=2",
    "dataset.curve={rate: [0.5, 1], time_scale: [1, 2], drop: [0, 0.9]}",
    "+dataset.shifts.best_case={rate: 0.7}",  # a name that contains that of a reading
    "threads=1",
    "trainer=cpu",
    "logger=none",
]


def test_a_run_under_shifts(trajectories_root, compose, cut):
    """Validated under each shift in every epoch, tested by each choice of weights and along the curve; and resumed."""
    config = compose(*SHIFTED, f"paths.data={trajectories_root}")
    record = run(config)
    shifts = ["half_rate", "double_time", "half_time", "best_case"]
    assert list(record["metrics"]) == ["best", "last", *(f"best@{shift}" for shift in shifts)]
    for reading, result in record["metrics"].items():
        assert list(result["shifted"]) == shifts
        chosen = record["history"][result["epoch"] - 1]
        for shift, metrics in result["shifted"].items():
            assert metrics["validation"]["accuracy"] == chosen[f"validation@{shift}/accuracy"]
        if "@" in reading:
            key = f"{reading.replace('best', 'validation', 1)}/accuracy"
            assert chosen[key] == max(epoch[key] for epoch in record["history"])
    # LegS depends on ratios of times only: a clock at another speed is no shift to it, and says that all is in place.
    best = record["metrics"]["best"]
    for shift in ("double_time", "half_time"):
        assert best["shifted"][shift]["test"] == pytest.approx(best["test"])
    assert best["shifted"]["half_rate"]["test"] != best["test"]
    curve = {(point["kind"], point["value"]): point["accuracy"] for point in record["curve"]}
    assert len(curve) == 6
    unshifted = best["test"]["accuracy"]
    assert [curve[at] for at in (("rate", 1), ("time_scale", 1), ("drop", 0))] == pytest.approx([unshifted] * 3)
    assert curve["rate", 0.5] == best["shifted"]["half_rate"]["test"]["accuracy"]

    again = compose(*SHIFTED, f"paths.data={trajectories_root}", "paths.outputs=" + str(folder_of(config) / "again"))
    cut(again)
    resumed = run(again)
    assert resumed["resumed"] == 1
    assert same(resumed, record)
    assert resumed["curve"] == record["curve"]


def test_series_of_their_own_lengths_are_trained_on(trajectories_root, compose):
    own = ["dataset.padding=none", "dataset.sampling={drop: 0.8}", "model=gru_d", "trainer.max_epochs=1"]
    record = run(compose(*SHIFTED, *own, f"paths.data={trajectories_root}"))
    assert set(record["metrics"]["best"]["shifted"]) == {"half_rate", "double_time", "half_time", "best_case"}
    assert len(record["curve"]) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+dataset.sampling.ratee=1", "dataset: sampling.ratee: there is no such setting"),
        ("dataset.shifts.half_rate.rate=0", "dataset: shifts.half_rate: rate must be above 0"),
        ("+dataset.curve.speed=[1]", "dataset: curve.speed: there is no such curve"),
        ("dataset.timestamps=both", "dataset.timestamps='both'"),
        ("dataset.shifts.half_rate.rate=fast", "dataset.shifts"),
    ],
)
def test_a_wrong_sampling_is_one_error_before_any_data_is_read(compose, override, message):
    with pytest.raises(ConfigError, match=message):
        run(compose("experiment=trajectories", "paths.data=nowhere", "logger=none", override))


NOISE = [
    "dataset=white_noise",
    "dataset.length=600",
    "dataset.cycles=4",
    "dataset.points=20",
    "dataset.sizes=[60,20,5]",
]
NOISE += ["dataset.batch_size=20", "logger=none", "threads=1", "trainer=cpu"]


def test_numbers_are_predicted_and_the_least_error_in_validation_is_best(compose, capsys):
    record = run(compose(*NOISE, "model=gru", "model.hidden_size=16", "trainer.max_epochs=4", "optimizer.lr=0.3"))
    errors = [epoch["validation/loss"] for epoch in record["history"]]
    best, last = record["metrics"]["best"], record["metrics"]["last"]
    assert best["epoch"] == errors.index(min(errors)) + 1
    assert best["validation"] == {"loss": min(errors)}
    assert set(last["test"]) == {"loss"}
    assert record["classes"] == []
    assert "confusion" not in record
    assert record["samples_per_second"] > 0
    assert records.objective(record) == -min(errors)
    assert f"validation loss {errors[-1]:.4g}" in capsys.readouterr().out


def test_a_memory_learns_nothing_and_gives_back_what_it_was_given(compose):
    record = run(compose(*NOISE, "model=memory", "model.hidden_size=32", "trainer.max_epochs=2"))
    assert record["parameters"] == 0
    first, second = record["history"]
    assert first["validation/loss"] == second["validation/loss"]
    dataset = instantiate(record["config"]["dataset"])
    signal, values = dataset.load(Path()).test.everything[:2]
    memory = HiPPO("legs", 32)
    read = memory.reconstruct(memory(signal[..., 0])[0][:, -1], torch.linspace(0, 1, 20))
    expected = (read - values).square().mean()
    assert 0 < expected < 0.01
    assert record["metrics"]["best"]["test"]["loss"] == pytest.approx(expected.item(), rel=1e-3)


def test_a_memory_may_be_classified_by(tiny):
    record = run(tiny("model=memory", "optimizer.lr=0.1"))
    assert record["parameters"] == 10 * (8 + 1)
    assert record["metrics"]["last"]["test"]["accuracy"] > 0.2


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_any_precision_ends_in_a_record(tiny, precision):
    assert run(tiny(f"trainer.precision={precision}", "trainer.max_epochs=1"))["samples_per_second"] > 0


def test_an_error_that_is_no_number_is_a_divergence(compose):
    with pytest.raises(Divergence, match=r"the validation loss became (inf|nan) in epoch 1"):
        run(compose(*NOISE, "dataset.batch_size=60", "model=gru", "trainer.max_epochs=1", "optimizer.lr=1e30"))


def test_what_was_not_finite_is_said_so(compose):
    record = run(compose(*NOISE, "model=memory", "model.hidden_size=8", "trainer.max_epochs=1"))
    record["metrics"]["last"]["test"]["loss"] = record["metrics"]["best"]["validation"]["loss"] = None
    assert "test loss not finite" in summary(record)
    assert records.objective(record) == -float("inf")


def test_nothing_is_learnt_by_one_process_only(compose):
    with pytest.raises(ConfigError, match="nothing is learnt here"):
        run(compose(*NOISE, "model=memory", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"))


def test_numbers_to_be_known_are_a_row_for_each_sequence(compose, monkeypatch):
    load = WhiteNoise.load

    def flat(self, root):
        return load(self, root)._replace(test=Sequences(Batch(torch.ones(3, 9, 1), torch.ones(3))))

    monkeypatch.setattr(WhiteNoise, "load", flat)
    with pytest.raises(DataError, match=r"not \(3,\) of torch.float32"):
        run(compose(*NOISE, "model=gru"))
