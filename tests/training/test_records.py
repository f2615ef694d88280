"""Identities and records."""

import copy
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hippo.training import records
from hippo.training.config import check

COMMITTED = Path(__file__).parents[2] / "results" / "records"
WHOLE = records.read(next((COMMITTED / "digits_gru").glob("*.json")))


def test_an_identity_ignores_seed_paths_and_hardware(compose):
    base = check(compose("experiment=pmnist_legs"))
    for override in (
        "paths.data=elsewhere",
        "trainer.accelerator=cpu",
        "trainer.devices=4",
        "trainer=ddp",
        "threads=3",
        "logger=none",
        "force=true",
        "name=other",
        "trainer.enable_progress_bar=false",
    ):
        assert records.identity(check(compose("experiment=pmnist_legs", override))) == records.identity(base), override
    seeded = check(compose("experiment=pmnist_legs", "seed=1"))
    assert records.config_hash(seeded) == records.config_hash(base)
    assert records.identity(base).endswith("-seed0")
    assert records.identity(seeded).endswith("-seed1")


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden_size=511",
        "dataset.batch_size=10",
        "dataset.split_seed=1",
        "trainer.max_epochs=51",
        "trainer.precision=bf16-mixed",
        "optimizer.lr=2e-3",
        "patience=3",
        "model=gru",
        "+optimizer.eps=1e-6",
    ],
)
def test_an_identity_changes_with_all_that_decides_the_result(compose, override):
    base, changed = (check(compose("experiment=pmnist_legs", *more)) for more in ((), (override,)))
    assert records.config_hash(base) != records.config_hash(changed)


def test_an_identity_does_not_depend_on_the_order_of_keys(compose):
    values = check(compose())
    reordered = {key: copy.deepcopy(values[key]) for key in reversed(values)}
    assert records.identity(values) == records.identity(reordered)


def test_seeds_of_different_purposes_and_runs_differ():
    seeds = {records.derive_seed(seed, purpose, epoch) for seed in range(5) for purpose in "ab" for epoch in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = WHOLE | {"seconds": 0.1 + 0.2, "name": "é", "own": {"of": "a later version"}}
    records.write(tmp_path / "record.json", record)
    assert records.read(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_what_is_not_a_number_is_written_as_null(tmp_path):
    records.write(tmp_path / "record.json", {"schema": records.SCHEMA, "loss": [float("nan"), float("inf"), 1.0]})
    assert json.loads((tmp_path / "record.json").read_text())["loss"] == [None, None, 1.0]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.write(path, WHOLE | {"old": True})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write(path, {"schema": records.SCHEMA, "old": False})
    assert records.read(path)["old"] is True
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_process_killed_while_writing_leaves_no_half_record(tmp_path):
    """SIGKILL between the temporary file's bytes and its renaming: the record's own path never holds a part."""
    program = (
        "import os, sys; from pathlib import Path; from hippo.training import records\n"
        "records.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "records.write(Path(sys.argv[1]), {'schema': 1, 'text': 'x' * 10**6})"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "record.json"], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "record.json").exists()


def test_readers_never_see_a_part_of_a_record_that_is_being_replaced(tmp_path):
    path = tmp_path / "record.json"
    contents = [WHOLE | {"text": letter * 200_000} for letter in "ab"]
    records.write(path, contents[0])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for content in contents:
                records.write(path, content)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert all(records.read(path) in contents for _ in range(100))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("text", ["", '{"schema": 1, "met', "[]", '{"schema": 0}', '{"schema": 1}', "null"])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"record\.json is not a record"):
        records.read(path)


def test_a_record_tells_code_packages_and_machine():
    provenance = records.provenance()
    assert set(provenance["git"]) == {"commit", "dirty"}
    assert provenance["versions"]["torch"].startswith("2.")
    assert provenance["machine"]["cores"] >= 1
    assert provenance["machine"]["cpu"]
    assert records.peak_memory()["host"] > 100 * 2**20


def test_a_setting_that_older_records_lack_neither_renames_them_nor_lets_them_stand_for_another_model(
    compose, tmp_path
):
    """ExpRNN's `base` came after its first records, which are of `base=initial`."""
    (model, added), *_ = records.ADDED.items()
    ((key, before),) = added.items()
    assert (model, key, before) == ("hippo.models.ExpRNN", "base", "initial")
    overrides = "experiment=pmnist", "model=exprnn", "model.hidden_size=128", "trainer.max_epochs=2"
    now, stated, unstated = (
        check(compose(*overrides, *more)) for more in ((), ("model.base=initial",), ("~model.base",))
    )
    old = copy.deepcopy(stated)
    del old["model"]["base"]
    assert records.identity(stated) == records.identity(old) == "92c3bb3f-seed0"  # in results/records
    assert records.identity(now) != records.identity(old)
    assert unstated == now
    records.write(tmp_path / "record.json", WHOLE | {"config": old})
    assert records.read(tmp_path / "record.json")["config"] == stated


def test_a_record_of_schema_1_is_read_as_one_of_today_s_and_its_file_stays(tmp_path):
    """Its test curve was called a sweep, in the configuration too; the hash of the configuration is what it was."""
    dataset = {"_target_": "x", "shifts": {}, "sweep": {"rate": [0.5, 1]}, "split_seed": 0}
    model, optimizer = {"_target_": "y", "hidden_size": 1}, {"_target_": "z"}
    config = {"dataset": dataset, "model": model, "optimizer": optimizer, "trainer": {"max_epochs": 1}}
    curve = [{"kind": "rate", "value": 1, "loss": 0.1, "accuracy": 0.5}]
    old = {"schema": 1, "config": config | {"patience": None}, "sweep": curve}
    old |= {key: value for key, value in WHOLE.items() if key not in old}
    old["hash"] = "9d9b993d"  # as the code of schema 1 had it
    path = tmp_path / "record.json"
    path.write_text(json.dumps(old))
    record = records.read(path)
    assert list(record) == ["curve" if key == "sweep" else key for key in old]
    assert list(record["config"]["dataset"]) == ["_target_", "shifts", "curve", "split_seed"]
    assert (record["schema"], record["curve"], record["metrics"]) == (2, curve, old["metrics"])
    assert records.config_hash(record["config"]) == records.config_hash(old["config"]) == old["hash"]
    other = old["config"] | {"dataset": record["config"]["dataset"] | {"curve": {"rate": [0.5, 2]}}}
    assert records.config_hash(other) != old["hash"]
    records.write(path, record)
    assert records.read(path) == record
    assert json.loads(path.read_text())["schema"] == 2


def test_every_committed_record_of_schema_1_keeps_its_name():
    paths = sorted(COMMITTED.rglob("*.json"))
    first = [path for path in paths if json.loads(path.read_text())["schema"] == 1]
    assert len(first) >= 194
    for path in first:
        record = records.read(path)
        assert records.config_hash(record["config"]) == record["hash"] == path.stem.partition("-")[0]
        assert "sweep" not in record
        assert "sweep" not in record["config"]["dataset"]


@pytest.mark.parametrize("schema", [0, 3, None, "1"])
def test_a_record_of_an_unknown_schema_is_refused(tmp_path, schema):
    (tmp_path / "record.json").write_text(json.dumps(WHOLE | {"schema": schema}))
    with pytest.raises(records.RecordError, match="not of schema 2 or 1"):
        records.read(tmp_path / "record.json")


def changed(*path: str, to: object) -> dict:
    """The whole record, with one thing in another form; without it where that is an ellipsis."""
    record = copy.deepcopy(WHOLE)
    node = record
    for key in path[:-1]:
        node = node[key]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return record


def deep(levels: int) -> list:
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (changed("config", to=[]), "config: "),
        (changed("config", "trainer", to="auto"), "config.trainer: "),
        (changed("config", "model", "_target_", to=...), "config.model._target_: "),
        (changed("config", "model", "hidden_size", to=...), "config.model.hidden_size: "),
        (changed("metrics", to=[]), "metrics: "),
        (changed("metrics", to={}), "metrics has no best"),
        (changed("metrics", "best", "test", "accuracy", to=None), "metrics.best.test has no accuracy"),
        (changed("metrics", "best", "test", "accuracy", to="0.99"), "metrics.best.test.accuracy: "),
        (changed("metrics", "last", "test", "accuracy", to=1.5), "metrics.last.test.accuracy: "),
        (changed("history", to=...), "history: "),
        (changed("history", to=[{"epoch": 1, "train/loss": "x"}]), "history.0.train/loss: "),
        (changed("classes", to=...), "classes: "),
        (changed("seconds", to=10**400), "seconds: "),
        (changed("machine", "gpus", to=None), "machine.gpus: "),
        (changed("name", to=7), "name: "),
        *((changed("name", to=name), "names a folder") for name in ("..", "../x", "/x", "a/b", "", "x" * 101, "x\n")),
        *((changed("seed", to=seed), "seed: ") for seed in ("0/../../x", -1, 2**32, 1.5, None)),
        *((changed("id", to=run), "id: ") for run in ("../x", "1804d1da-seed0/..", "1804d1da-seed0\n", "")),
        (changed("versions", to=deep(900)), "nested too deep"),
        (changed("config", "model", "own", to=deep(20)), "nested too deep"),
        (changed("command", to="\ud800"), "surrogates"),
        (changed("seconds", to=float("nan")), "NaN is no number"),
    ],
)  # fmt: skip
def test_a_record_that_is_not_what_readers_take_for_granted_is_named_with_the_reason(tmp_path, record, message):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    with pytest.raises(records.RecordError, match=r"record\.json is not a record: ") as error:
        records.read(path)
    assert message in str(error.value)


def test_a_folder_a_pipe_and_a_huge_file_are_no_records(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "record.json"
    path.write_text(json.dumps(WHOLE))
    monkeypatch.setattr(records, "LARGEST", 1000)
    for place, reason in ((tmp_path / "pipe", "not a file"), (tmp_path, "not a file"), (path, "larger than")):
        with pytest.raises(records.RecordError, match=reason):
            records.read(place)
    path.write_text("[" * 100_000)
    monkeypatch.undo()
    with pytest.raises(records.RecordError, match="nested too deep"):
        records.read(path)
