"""Weights & Biases, offline, in real run folders."""

import csv
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import wandb
from wandb.proto import wandb_internal_pb2

from hippo.training import foreign, records, tracking
from hippo.training.config import ConfigError, check
from hippo.training.learner import SequenceLearner
from hippo.training.run import run

from .conftest import CONFIGS, TINY
from .test_run import folder_of


@pytest.fixture
def tracked(compose, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    return lambda *overrides: compose(*TINY, "logger=wandb", *overrides)


def entries(content: bytes) -> Iterator[bytes]:
    """The entries of a .wandb file: LevelDB's log format, 32 KiB blocks of chunks (checksum, length, type, data)."""
    position, parts = 7, b""  # after the file's header
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole entry, or the last part of one
            yield parts
            parts = b""


def read_offline(folder: Path) -> dict:
    """What the latest offline W&B run in a folder holds: configuration, history, summary, exit code.

    W&B writes from a process of its own, whose last entry may come after `finish` has returned.
    """
    path = max(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    for _ in range(100):
        found = parse(path)
        if found["exit_code"] is not None:
            break
        time.sleep(0.1)
    return found


def parse(path: Path) -> dict:
    found: dict = {"config": {}, "history": [], "summary": {}, "exit_code": None}
    for data in entries(path.read_bytes()):
        item = wandb_internal_pb2.Record()
        item.ParseFromString(data)
        kind = item.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": item.run.run_id, "group": item.run.run_group, "project": item.run.project}
            found["config"] |= {update.key: json.loads(update.value_json) for update in item.run.config.update}
        elif kind == "config":
            found["config"] |= {update.key: json.loads(update.value_json) for update in item.config.update}
        elif kind == "history":
            found["history"].append(
                {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in item.history.item}
            )
        elif kind == "summary":
            found["summary"] |= {
                entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in item.summary.update
            }
        elif kind == "exit":
            found["exit_code"] = item.exit.exit_code
    return found


def test_an_offline_run_logs_everything_in_its_folder_and_says_how_to_upload_it(tracked, capsys, monkeypatch):
    """Where there is no home folder, and none can be made."""
    monkeypatch.setenv("HOME", "/dev/null/home")
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    config = tracked("scheduler=cosine")
    record = run(config)
    logged = read_offline(folder_of(config))
    assert "wandb sync " in capsys.readouterr().out
    assert logged["id"] == f"digits_legs-{record['id']}"
    assert logged["group"] == "digits_legs"
    assert logged["project"] == "hippo"
    assert logged["exit_code"] == 0
    assert logged["config"]["model"]["hidden_size"] == 8
    assert logged["config"]["seed"] == 0
    assert logged["config"]["git"] == record["git"]
    epochs = [row for row in logged["history"] if "validation/accuracy" in row]
    assert len(epochs) == 3
    for name in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy", "train/learning_rate"):
        logged_values = [row[name] for row in logged["history"] if name in row]
        assert logged_values == pytest.approx([epoch[name] for epoch in record["history"]])
    assert len([row for row in logged["history"] if "seconds/epoch" in row]) == 3
    assert any("curves/path" in row for row in logged["history"])
    assert any("confusion/path" in row for row in logged["history"])
    assert not (folder_of(config) / "wandb" / "artifacts").exists()


def test_the_latest_folder_of_a_resumed_offline_run_holds_all_of_it(tracked, monkeypatch):
    step = SequenceLearner.training_step

    def cut(self, batch, batch_idx):
        if self.current_epoch == 2:
            raise KeyError("power cut")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SequenceLearner, "training_step", cut)
    config = tracked()
    with pytest.raises(KeyError, match="power cut"):
        run(config)
    monkeypatch.setattr(SequenceLearner, "training_step", step)
    time.sleep(1.1)  # W&B names folders by the second
    record = run(config)
    logged = read_offline(folder_of(config))
    assert len(list(folder_of(config).glob("wandb/offline-run-*"))) == 2
    assert logged["id"] == f"digits_legs-{record['id']}"
    for name in ("train/loss", "validation/accuracy"):
        rows = [row for row in logged["history"] if name in row]
        assert [row[name] for row in rows] == pytest.approx([epoch[name] for epoch in record["history"]])
        assert [row["trainer/global_step"] for row in rows] == [25, 51, 77]


def test_a_run_that_fails_is_finished_as_failed(tracked, monkeypatch):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(SequenceLearner, "validation_step", fail)
    config = tracked()
    with pytest.raises(KeyError, match="a bug"):
        run(config)
    assert wandb.run is None
    assert read_offline(folder_of(config))["exit_code"] == 1


def test_ctrl_c_finishes_the_run(tracked, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SequenceLearner, "validation_step", interrupt)
    config = tracked()
    with pytest.raises(SystemExit):
        run(config)
    assert wandb.run is None
    assert read_offline(folder_of(config))["exit_code"] == 1


@pytest.mark.parametrize(
    ("answer", "mode"), [(True, "online"), (False, "offline"), (wandb.errors.AuthenticationError("no"), "offline")]
)
def test_the_mode_is_online_where_logging_in_works(monkeypatch, tmp_path, answer, mode):
    """Logging in is replaced: there is no server to ask."""
    arguments = {}

    class Run:
        url, dir, id = "somewhere", str(tmp_path / "files"), "x"

    def login(prompt):
        assert prompt is False
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking.wandb, "login", login)
    monkeypatch.setattr(tracking.wandb, "init", lambda **kwargs: arguments.update(kwargs) or Run())
    monkeypatch.setattr(tracking, "Window", lambda **kwargs: kwargs)
    tracking.wandb_logger(name="n", identity="i", folder=tmp_path, settings={}, resume=True)
    assert arguments["mode"] == mode
    assert arguments["resume"] == ("allow" if mode == "online" else None)
    assert arguments["id"] == "n-i"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracking.wandb_logger(name="n", identity="i", folder=tmp_path, settings={}, resume=False)
    assert arguments["mode"] == "disabled"


@pytest.mark.parametrize(
    ("said", "mode"),
    [("Offline", "offline"), ("dryrun", "offline"), ("ONLINE", "online"), ("run", "online"), ("Disabled", "disabled")],
)
def test_the_environment_says_the_mode_in_whatever_letters(monkeypatch, tmp_path, said, mode):
    """W&B itself reads the variable as well, and refuses capitals."""
    started = []
    monkeypatch.setenv("WANDB_MODE", said)
    monkeypatch.setattr(tracking.wandb, "init", lambda **kwargs: started.append(kwargs["mode"]) or wandb.sdk.wandb_run)
    monkeypatch.setattr(wandb.sdk.wandb_run, "url", "somewhere", raising=False)
    monkeypatch.setattr(wandb.sdk.wandb_run, "dir", str(tmp_path), raising=False)
    monkeypatch.setattr(tracking, "Window", lambda **kwargs: kwargs)
    tracking.wandb_logger(name="n", identity="i", folder=tmp_path, settings={}, resume=False)
    assert started == [mode]
    assert tracking.os.environ["WANDB_MODE"] == mode


def test_a_run_without_wandb_is_made_where_it_cannot_be_started(monkeypatch, tmp_path, capsys):
    tried = []

    def init(**kwargs):
        tried.append(kwargs["mode"])
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(tracking.wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert tracking.wandb_logger(name="n", identity="i", folder=tmp_path, settings={}, resume=False) is None
    assert tried == ["online", "offline"]
    assert "no route to host" in capsys.readouterr().out


def test_no_failure_of_wandb_fails_a_run(tracked, monkeypatch, capsys):
    def fail(*_, **__):
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger.log_metrics", fail)
    monkeypatch.setattr(tracking, "log_results", fail)
    monkeypatch.setattr(tracking.wandb, "finish", fail)
    config = tracked("trainer.max_epochs=2")
    try:
        record = run(config)
    finally:
        monkeypatch.undo()
        wandb.finish()
    assert record["epochs"] == 2
    assert (folder_of(config) / "record.json").is_file()
    said = capsys.readouterr().out
    assert said.count("W&B failed (the service is gone)") == 1


def test_a_run_that_is_told_to_log_nothing_to_wandb_writes_its_record_all_the_same(tracked, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = tracked("trainer.max_epochs=1")
    run(cfg)
    assert (folder_of(cfg) / "record.json").is_file()
    assert not (folder_of(cfg) / "wandb").exists()


def test_a_csv_file_holds_the_whole_of_a_run_that_was_cut(tiny, cut):
    config = tiny("logger=csv")
    cut(config)
    record = run(config)
    with (folder_of(config) / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "validation/accuracy"):
        logged_values = [float(row[name]) for row in rows if row[name]]
        assert logged_values == pytest.approx([epoch[name] for epoch in record["history"]], rel=1e-5)
    assert record["id"] == records.identity(check(tiny()))  # what is logged is no part of what a run is


def test_tensorboard_is_missed_in_one_sentence(tiny, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("no tensorboard")

    monkeypatch.setattr(tracking, "TensorBoardLogger", missing)
    with pytest.raises(ConfigError, match="logger=tensorboard needs TensorBoard: pip install tensorboard"):
        run(tiny("logger=tensorboard"))


def test_tensorboard_gets_the_metrics(tiny):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny("logger=tensorboard", "trainer.max_epochs=2")
    record = run(config)
    events = EventAccumulator(str(folder_of(config) / "tensorboard")).Reload()
    logged_values = [event.value for event in events.Scalars("validation/accuracy")]
    assert logged_values == pytest.approx([epoch["validation/accuracy"] for epoch in record["history"]])


class Watch(pl.Callback):
    """Counts the epochs of all runs that it watches."""

    epochs = 0

    def __init__(self, step: int = 1) -> None:
        self.step = step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Watch.epochs += self.step


def test_a_callback_of_ones_own_is_called_and_is_a_part_of_what_the_run_is(tiny):
    target = "+callbacks.watch._target_=tests.training.test_tracking.Watch"
    before = Watch.epochs
    record = run(tiny(target, "+callbacks.watch.step=10"))
    assert Watch.epochs == before + 30
    assert record["config"]["callbacks"]["watch"]["step"] == 10
    plain, watched = records.identity(check(tiny())), records.identity(check(tiny(target)))
    assert len({plain, watched, record["id"]}) == 3
    assert foreign.build(record, "model", CONFIGS, input_size=1).hidden_size == 8  # whatever watched it


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["+callbacks.watch.step=1"], r"callbacks.watch names no class: \+callbacks.watch._target_="),
        (["+callbacks.watch=1"], "callbacks.watch names no class"),
        (["+callbacks.watch._target_=tests.training.test_tracking.Watch", "+callbacks.watch.stpe=1"], "mean step?"),
        (["+callbacks.watch._target_=collections.Counter"], "Counter is no Callback of Lightning"),
    ],
)
def test_what_is_no_callback_is_said(tiny, overrides, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run(tiny(*overrides))
