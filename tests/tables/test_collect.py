"""Records from several places, some of them not what they should be."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from hippo.tables.collect import collect, download, read_all

RECORD = next((Path(__file__).parents[2] / "results" / "records" / "digits_gru").glob("*.json"))


@pytest.fixture
def place(tmp_path):
    """Put the record, changed, in a folder of outputs of the name given."""

    def put(where: str, **changes) -> Path:
        record = json.loads(RECORD.read_text()) | changes
        path = tmp_path / where / record["name"] / record["id"] / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
        return tmp_path / where

    return put


def names(results: Path) -> list[str]:
    return [path.name for path in (results / "records").rglob("*.json")]


def test_a_run_that_is_met_twice_is_kept_once(place, tmp_path):
    folders = [place("one"), place("two", seconds=5.0)]  # the same result from a slower machine
    assert len(list(collect(folders, tmp_path / "results"))) == 1
    assert names(tmp_path / "results") == [RECORD.name]
    assert list(collect(folders, tmp_path / "results")) == []
    assert (tmp_path / "results" / "records" / "digits_gru" / RECORD.with_suffix(".svg").name).is_file()


def test_two_results_under_one_identity_are_reported_and_the_first_is_kept(place, tmp_path):
    metrics = json.loads(RECORD.read_text())["metrics"]
    metrics["best"]["test"]["accuracy"] = 0.123
    lines = list(collect([place("one"), place("two", metrics=metrics)], tmp_path / "results"))
    assert "its result is not that of" in lines[1]
    assert "two/" in lines[1]
    (kept,) = (tmp_path / "results" / "records").rglob("*.json")
    assert json.loads(kept.read_text())["metrics"] == json.loads(RECORD.read_text())["metrics"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "metrics": {}}', "\x00\x01"])
def test_what_is_no_record_is_named_and_skipped(place, tmp_path, text):
    folder = place("one")
    strange = folder / "other" / "x" / "record.json"
    strange.parent.mkdir(parents=True)
    strange.write_text(text)
    lines = list(collect([folder], tmp_path / "results"))
    assert len(lines) == 2
    assert any(line.startswith(f"left out {strange}: ") for line in lines)
    assert names(tmp_path / "results") == [RECORD.name]


def test_a_record_under_a_name_that_is_not_its_own_is_skipped(place, tmp_path):
    config = json.loads(RECORD.read_text())["config"] | {"patience": 7}
    (line,) = collect([place("one", config=config)], tmp_path / "results")
    assert "its name is not that of the configuration in it" in line


def test_records_come_from_wandb_too(tmp_path, monkeypatch):
    """A stand-in for the server: two runs, of which one has left no record."""

    class File:
        def __init__(self, name: str) -> None:
            self.name = name

        def download(self, root: str, exist_ok: bool) -> None:
            Path(root).mkdir(parents=True)
            (Path(root) / self.name).write_text(RECORD.read_text())

    def run(number: int, files: list[File]) -> SimpleNamespace:
        return SimpleNamespace(id=f"../../run-{number}", files=lambda names: files if names == ["record.json"] else [])

    runs = {"team/hippo": [run(0, [File("record.json"), File("../../record.json")]), run(1, [])]}
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(runs=runs.__getitem__))
    download("team/hippo", tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["fetched"]  # nothing where the server's names lead
    assert len(list(collect([tmp_path / "fetched"], tmp_path / "results"))) == 1
    assert names(tmp_path / "results") == [RECORD.name]


def test_a_damaged_record_among_the_collected_is_named(place, tmp_path):
    folder = place("one")
    list(collect([folder], tmp_path / "results"))
    (kept,) = (tmp_path / "results" / "records").rglob("*.json")
    kept.write_text("{")
    (line,) = collect([folder], tmp_path / "results")
    assert f"{kept} is not a record" in line


def test_bad_records_among_good_ones_stop_nothing_and_write_nothing_elsewhere(place, tmp_path):
    """Collected, and lying among the collected: each is named, and the others are read."""
    folder = place("outputs")
    good = json.loads(RECORD.read_text())
    bad = {
        "climbs": good | {"name": "../../../escaped"},
        "absolute": good | {"name": str(tmp_path / "escaped")},
        "seed": good | {"seed": "0/../../../../escaped", "id": f"{good['hash']}-seed0/../../../../escaped"},
        "bare": good | {"metrics": {}},
        "list": [],
        "taken": good | {"name": "taken.json"},
        "long": good | {"name": 100 * "漢"},
    }
    for name, record in bad.items():
        (folder / name).mkdir()
        (folder / name / "record.json").write_text(json.dumps(record))
    results = tmp_path / "inside" / "results"
    (results / "records").mkdir(parents=True)
    (results / "records" / "taken.json").touch()
    lines = list(collect([folder], results))
    assert len(lines) == len(bad) + 1
    assert all(any(line.startswith(f"left out {folder / name / 'record.json'}: ") for line in lines) for name in bad)
    (results / "records" / "taken.json").unlink()
    assert len(list(tmp_path.rglob("*.json"))) == len(bad) + 2
    assert names(results) == [RECORD.name]
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "inside"}
    (results / "records" / "bad.json").write_text(json.dumps(bad["bare"]))
    told: list[str] = []
    (kept,) = read_all(results, told.append)
    assert kept["id"] == good["id"]
    assert [line.partition(": ")[0] for line in told] == [f"left out {results / 'records' / 'bad.json'}"]


def test_tables_need_nothing_that_trains():
    """PyTorch alone takes half a gigabyte; thousands of records are read, tabled and drawn in less."""
    program = (
        "import sys; from pathlib import Path\n"
        "from hippo.tables import check, collect, page, render, report\n"
        "from hippo.tables.table import cells, read_table\n"
        "configs, results = Path('configs'), Path('results')\n"
        "table = read_table(configs / 'table' / 'function_approximation.yaml')\n"
        "its, found = list(cells(table, configs, checked=False)), collect.by_name(collect.read_all(results))\n"
        "assert any(run.id in str(found) for cell in its for run in cell.runs)\n"
        "render.written('x', table, its, found, results), report.report({'x': (table, its)}, found)\n"
        "assert not {'torch', 'pytorch_lightning', 'wandb'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_of_a_long_history_what_a_page_draws_is_kept(place, tmp_path):
    history = [{"epoch": n, "train/loss": 1.0, "validation/accuracy": 0.5, "seconds": 1.0} for n in range(1, 1001)]
    list(collect([place("one", history=history)], tmp_path / "results"))
    (record,) = read_all(tmp_path / "results")
    assert len(record["history"]) <= 120
    assert record["history"][-1] == {"epoch": 1000, "train/loss": 1.0, "validation/accuracy": 0.5}
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    assert len(json.loads(path.read_text())["history"]) == 1000
