"""Tables: which runs they need, what of a record a cell shows, and how it is written."""

import csv
import io
import itertools
import math
import re
import string
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from hippo.tables.collect import collect, read_all
from hippo.tables.render import as_csv, entries, latex, legend, markdown, quantities, write_table
from hippo.tables.statistics import summarize
from hippo.tables.table import READINGS, Column, Row, Table, cells, read_table, score
from hippo.training import records
from hippo.training.config import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
SPEC = {
    "title": "A table",
    "source": "a paper",
    "seeds": [0, 1, 2],
    "columns": {
        "plain": {"label": "no shift", "overrides": ["experiment=digits"]},
        "slow": {"label": "slow, 50 %", "overrides": ["experiment=digits"], "shift": "slow", "timed": True},
        "still": {"label": "still", "overrides": ["experiment=digits", "model.hidden_size=9"]},
    },
    "rows": {
        "gru": {
            "label": "GRU",
            "overrides": ["model=gru"],
            "timed": ["dataset.timestamps=true"],
            "reported": {"slow": [50.0, "recalled"], "still": [12.5, "read"]},
        },
        "legs": {"label": "LegS", "overrides": ["model=legs"], "seeds": [5], "note": "of one seed"},
    },
    "notes": ["a note"],
}


@pytest.fixture
def table():
    return Table.model_validate(SPEC)


DIRTY = {"git": {"commit": "a", "dirty": True}}
GIT = {"git": {"commit": "a", "dirty": False}}


def record(run, best: float, slow: float | None = None) -> dict:
    """A synthetic record of a run: what tables read of one."""
    reading = {"epoch": 1, "validation": {"loss": 1.0, "accuracy": 0.5}, "test": {"loss": 1.0, "accuracy": best}}
    last = reading | {"test": {"loss": 1.0, "accuracy": best - 0.1}}
    found = {"schema": records.SCHEMA, "name": run.name, "id": run.id, "metrics": {"best": reading, "last": last}} | GIT
    if slow is not None:
        for k, one in enumerate((reading, last)):
            test = {"loss": 1.0, "accuracy": slow - 0.1 * k}
            one["shifted"] = {"slow": {"validation": test, "test": test}}
        shifted = {"slow": {"test": {"loss": 1.0, "accuracy": slow + 0.1}}}
        found["metrics"]["best@slow"] = reading | {"shifted": shifted}
    return found


@pytest.fixture
def filled(table):
    """Cells, and records of all runs of GRU but one, and none of LegS."""
    all_cells = list(cells(table, CONFIGS))
    found = {}
    for cell in all_cells:
        if cell.row == "gru":
            for k, run in enumerate(cell.runs[: 2 if cell.column == "still" else 3]):
                slow = 0.6 + 0.1 * k if cell.column == "slow" else None
                found[run.name, run.id] = record(run, 0.9 + 0.01 * k, slow)
    return all_cells, found


def test_cells_name_their_runs(table):
    by = {(cell.row, cell.column): cell.runs for cell in cells(table, CONFIGS)}
    assert len(by) == 6
    assert [run.config["seed"] for run in by["gru", "plain"]] == [0, 1, 2]
    assert [run.config["seed"] for run in by["legs", "plain"]] == [5]
    assert by["gru", "slow"][0].config["dataset"]["timestamps"] is True
    assert by["legs", "slow"] == by["legs", "plain"]  # nothing differs, so one run serves both
    assert by["gru", "still"][1].command == (
        "hippo train experiment=digits model.hidden_size=9 model=gru seed=1"
    )  # fmt: skip
    assert by["gru", "still"][1].config["model"]["hidden_size"] == 9
    for runs in by.values():
        for run in runs:
            assert run.id == records.identity(run.config)
            assert run.name == run.config["name"]


@pytest.mark.parametrize(
    ("override", "shift", "curve", "message"),
    [
        ("experiment=trajectories", "half_rat", "rate", "columns.slow.shift: {} half_rat; did you mean half_rate?"),
        ("experiment=trajectories", "other", "rate", "columns.slow.shift: {} other; choose from {}"),
        ("dataset=character_trajectories", "other", "rate", "columns.slow.shift: {} other; they have none"),
        ("experiment=trajectories", "half_rate", "rates", "figure.0.curve: {} rates; did you mean rate?"),
    ],
)
def test_a_shift_or_a_curve_that_the_runs_of_a_column_do_not_have_is_named(override, shift, curve, message):
    column = {"label": "slow", "overrides": [override], "shift": shift}
    panel = {"title": "", "axis": "", "column": "slow", "curve": curve, "trained": 1}
    rows = {"gru": {"label": "GRU", "overrides": ["model=gru"]}}
    table = Table.model_validate(SPEC | {"columns": {"slow": column}, "rows": rows, "figure": [panel]})
    with pytest.raises(ConfigError) as error:
        list(cells(table, CONFIGS))
    assert str(error.value) == message.format("its runs have no", "half_rate, double_time, half_time")


def test_a_variant_has_the_color_of_its_row_and_a_row_to_be_one_of():
    rows = {"a": {"label": "A"}, "b": {"label": "B"}, "c": {"label": "C", "variant_of": "a"}, "d": {"label": "D"}}
    table = Table.model_validate(SPEC | {"rows": rows})
    assert [table.color(row) for row in rows] == [0, 1, 0, 2]
    for unknown in ("e", "c"):
        with pytest.raises(ValidationError, match=f"there is no row {unknown}, or it is a variant"):
            Table.model_validate(SPEC | {"rows": rows | {"d": {"label": "D", "variant_of": unknown}}})


def test_a_cell_shows_what_its_column_and_reading_say(table):
    run = next(iter(cells(table, CONFIGS))).runs[0]
    one, shifted = record(run, 0.9), record(run, 0.9, 0.6)
    plain, slow = table.columns["plain"], table.columns["slow"]
    assert [score(shifted, plain, reading) for reading in ("best", "last")] == pytest.approx([90, 80])
    assert [score(shifted, slow, reading) for reading in READINGS] == pytest.approx([60, 50, 70])
    assert score(one, slow) is None


def test_missing_runs_are_shown_as_missing(table, filled):
    shown = entries(table, *filled)
    assert shown["legs", "plain"].ours is None
    assert shown["gru", "plain"].ours.values == pytest.approx([90, 91, 92])
    assert shown["gru", "still"].ours.interval is None
    assert shown["gru", "slow"].difference == pytest.approx(20)
    lines = markdown(table, shown)
    assert lines[0] == "| | no shift | slow, 50 % | still |"
    gru, legs = lines[2:]
    assert re.fullmatch(
        r"\| GRU \| \*\*91\.0\*\* \[88\.5, 93\.5\] \(3\) "
        r"\| \*\*70\.0\*\* \[45\.2, 94\.8\] \(3\)<br>reported 50\.0‡, \+20\.0 "
        r"\| \*\*90\.5\*\* \(2 of 3\)<br>reported 12\.5, \+78\.0 \|",
        gru,
    )
    assert legs == "| LegS | missing | missing | missing |"


def test_a_table_may_show_errors_and_speeds(table):
    columns = {
        "error": {"label": "error", "metric": "loss", "overrides": ["experiment=digits"]},
        "speed": {"label": "speed", "metric": "speed", "overrides": ["experiment=digits"]},
    }
    reported = {"legs": {"error": [0.02, "third-hand"], "speed": [470_000, "third-hand"]}}
    rows = {name: {"label": name, "overrides": [f"model={name}"]} for name in ("legs", "gru")}
    spec = {name: row | {"reported": reported.get(name, {})} for name, row in rows.items()}
    table = Table.model_validate(SPEC | {"columns": columns, "rows": spec, "seeds": [0]})
    filled, found = list(cells(table, CONFIGS)), {}
    for cell, loss, speed in zip(filled[::2], (0.0161, 0.25), (9_400_000.0, None), strict=True):
        (run,) = cell.runs
        metrics = {"best": {"test": {"loss": loss}}, "last": {"test": {"loss": 1.0}}}
        found[run.name, run.id] = {"name": run.name, "id": run.id, "metrics": metrics} | GIT
        if speed:  # earlier records have none
            found[run.name, run.id]["samples_per_second"] = speed
    shown = entries(table, filled, found)
    assert markdown(table, shown)[2:] == [
        "| legs | **0.016** (1)<br>reported 0.020†, -0.004 | **9,400,000** (1)<br>reported 470,000†, × 20 |",
        "| gru | 0.250 (1) | missing |",
    ]
    assert "\\textbf{0.016} {\\scriptsize $n=1$} (0.020$^\\dagger$)" in latex(table, shown)
    assert quantities(table).endswith(
        "the mean squared error where numbers are predicted, or samples a second, of one sequence by itself"
    )
    assert "ours minus it, or how many times it ours is" in " ".join(legend(table))


def test_the_csv_holds_every_figure(table, filled):
    by_reading = {reading: entries(table, *filled, reading) for reading in READINGS}
    rows = list(csv.DictReader(io.StringIO(as_csv(table, by_reading))))
    assert len(rows) == 3 * 6
    slow = next(r for r in rows if (r["row"], r["column"], r["reading"]) == ("GRU", "slow, 50 %", "last"))
    assert slow["values"] == "50 60 70"
    assert (slow["mean"], slow["reported"], slow["standing"], slow["difference"]) == (
        "60",
        "50.0",
        "recalled",
        "10",
    )
    assert slow["records"].count("records/digits_gru/") == 3
    missing = next(r for r in rows if (r["row"], r["column"], r["reading"]) == ("LegS", "still", "best"))
    assert (missing["mean"], missing["runs"], missing["missing"]) == ("", "0", "1")


def test_what_is_not_committed_is_marked_in_every_form(table, filled):
    cells, found = filled
    run, *_ = next(cell.runs for cell in cells if (cell.row, cell.column) == ("gru", "plain"))
    found[run.name, run.id].update(DIRTY)
    by_reading = {reading: entries(table, cells, found, reading) for reading in READINGS}
    shown = by_reading["best"]
    assert "(3) †uncommitted |" in markdown(table, shown)[2]
    assert "\\textbf{91.0} {\\scriptsize [88.5, 93.5], $n=3$}$^{\\dagger\\mathrm{uncommitted}}$" in latex(table, shown)
    rows = list(csv.DictReader(io.StringIO(as_csv(table, by_reading))))
    assert {row["uncommitted"] for row in rows if row["row"] == "GRU" and row["column"] == "no shift"} == {"1"}
    assert {row["uncommitted"] for row in rows if row["row"] == "LegS"} == {"0"}


def test_latex_is_balanced_and_escaped(table, filled):
    text = latex(table, entries(table, *filled))
    assert "slow, 50 \\%" in text
    assert "\\textbf{70.0} {\\scriptsize [45.2, 94.8], $n=3$} (50.0$^\\ddagger$)" in text
    assert text.count("{") == text.count("}")
    row = table.rows["gru"].model_copy(update={"label": "\\input{x}$#~^"})
    hostile = table.model_copy(update={"rows": {"gru": row}})
    shown = {key: entry for key, entry in entries(table, *filled).items() if key[0] == "gru"}
    assert "\\textbackslash{}input\\{x\\}\\$\\#\\textasciitilde{}\\textasciicircum{} &" in latex(hostile, shown)
    body = text.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].splitlines()
    assert all(line.count("&") == 3 and line.endswith("\\\\") for line in body)


def test_a_table_is_written_with_its_notes(table, filled, tmp_path):
    paths = write_table("example", table, *filled, tmp_path)
    assert [path.name for path in paths] == ["example.md", "example.tex", "example.csv"]
    page = paths[0].read_text()
    for words in ("# A table", "a note", "LegS: of one seed", "figure of a paper", *READINGS.values()):
        assert words in page


def test_the_interval_of_a_few_seeds_holds_the_mean_as_often_as_it_says():
    assert summarize([90.0]).interval is None
    assert summarize([90.0, 91.0]).interval is None
    assert summarize([7.0, 7.0, 7.0]).interval == (7.0, 7.0)
    values = np.random.default_rng(0).normal(80, 2, size=400)
    half = 1.96 * values.std() / math.sqrt(400)
    assert summarize(values.tolist()).interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    samples = np.random.default_rng(0).normal(80, 2, size=(4000, 3)).tolist()
    held = sum(low < 80 < high for low, high in (summarize(sample).interval for sample in samples)) / len(samples)
    assert held == pytest.approx(0.95, abs=0.014)  # four standard errors; of the least and the greatest: 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, r"own.yaml, line \d+: titel: Extra inputs"),
        ({"seeds": ["a"]}, r"own.yaml, line \d+: seeds.0: "),
        ({"rows": {"gru": {"label": "GRU", "overrides": [], "reported": {"fast": [1, "read"]}}}}, "no column fast"),
        ({"rows": {"gru": {"label": "GRU", "overrides": [], "reported": {"slow": [1, "guessed"]}}}}, "'recalled'"),
    ],
)
def test_a_wrong_table_is_one_error_that_names_the_key(tmp_path, change, message):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SPEC | change))
    with pytest.raises(ConfigError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": "${oc.env:HOME}"}, "Environment variables may stand in paths only"),
        ({"notes": ["of ${oc.env:TOKEN}"]}, "Environment variables may stand in paths only"),
        ({"source": "one\n\\input{/etc/passwd}"}, "one line of text"),
        ({"seeds": [-1]}, r"own.yaml, line \d+: seeds.0: "),
        ({"seeds": ["0/../../x"]}, r"own.yaml, line \d+: seeds.0: "),
        ({"seeds": [2**32]}, r"own.yaml, line \d+: seeds.0: "),
    ],
)
def test_what_is_printed_of_a_table_is_plain_and_its_seeds_are_seeds(tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("TOKEN", "secret")
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SPEC | change))
    with pytest.raises(ConfigError, match=message) as error:
        read_table(path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["..", "a b", "-x", "a|b"])
def test_a_table_s_name_is_that_of_a_file(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    with pytest.raises(ConfigError, match="names a folder"):
        read_table(path)


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise(string.ascii_lowercase))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"title: a\nsource: b: c\n", r"own.yaml, line 2: mapping values are not allowed here"),
        (b"title: [a\n", r"own.yaml, line 2: expected"),
        (b"title: a\nsource: \xff\n", r"own.yaml, line 2: it is not UTF-8 text"),
        (b"title: a\ntitle: b\n", r"own.yaml, line 2: found duplicate key title"),
        (b"title: !!python/object:os.system {}\n", r"own.yaml, line 1: could not determine a constructor"),
        (b"title: \x00\n", r"own.yaml: character 7 is 0"),
        (b"a: " + b"[" * 5000, r"own.yaml: it is nested too deep"),
        (BOMB.encode(), r"own.yaml is not a table: its aliases"),
        (b"", r"own.yaml, line 1: title: Field required"),
        (b"- a\n", r"own.yaml, line 1: Input should be a valid dictionary"),
        (b"hello\n", r"own.yaml, line 1: title: Field required"),
    ],
)
def test_a_damaged_table_is_one_sentence_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_table(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.run.dir=x", "neither Hydra's settings nor paths"),
        ("+hydra.callbacks.own._target_=os.system", "neither Hydra's settings nor paths"),
        ("+experiment@hydra.own=digits", "neither Hydra's settings nor paths"),
        ("--config-dir=x", "neither Hydra's settings nor paths"),
        ("paths.outputs=x", "neither Hydra's settings nor paths"),
        ("model=../../downloads/own", "no file outside"),
        ("model='/downloads/own'", "no file outside"),
        ("name=..", "no file outside"),
    ],
)
def test_a_table_chooses_runs_and_nothing_else(override, message):
    with pytest.raises(ValidationError, match=message):
        Row(label="wrong", overrides=["experiment=digits", override])


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=torch.load",
        "+dataset.sampling={_target_:torch.load,f:x.pt,weights_only:false}",
        "+optimizer._args_=[1]",
        "optimizer._target_=subprocess.run",
        "model._target_=antigravity.webbrowser.open",
    ],
)
def test_a_table_names_no_class_from_elsewhere(table, override):
    row = Row(label="wrong", overrides=["experiment=digits", "model=gru", override])
    with pytest.raises(ConfigError, match="file from elsewhere"):
        list(cells(table.model_copy(update={"rows": {"wrong": row}}), CONFIGS))
    assert "antigravity" not in sys.modules  # nor is it imported to see what it is


@pytest.mark.parametrize(
    ("override", "message"),
    [("model.hiden_size=3", "did you mean hidden_size"), ("model=gruu", "did you mean gru"), ("model.x=[", "Quote")],
)
def test_a_row_that_cannot_be_run_is_one_error_that_names_it(table, override, message):
    row = Row(label="wrong", overrides=["experiment=digits", override])
    with pytest.raises(ConfigError, match=message) as error:
        list(cells(table.model_copy(update={"rows": {"wrong": row}}), CONFIGS))
    assert "hippo train" in str(error.value)


def test_the_runs_of_a_table_are_looked_for_under_the_names_under_which_they_are_trained(table):
    tables = [table, read_table(CONFIGS / "table" / "pmnist_short.yaml")]  # with models whose older records lack a key
    for its in tables:
        assert list(cells(its, CONFIGS, checked=False)) == list(cells(its, CONFIGS))
    row = Row(label="x", overrides=["experiment=digits", "model=exprnn", "~model.base"])
    (cell, *_) = cells(tables[1].model_copy(update={"rows": {"x": row}}), CONFIGS, checked=False)
    assert cell.runs[0].config["model"]["base"] == "identity"


def test_a_misspelt_table_is_asked_about():
    with pytest.raises(ConfigError, match=r"did you mean trajectories\?"):
        read_table(CONFIGS / "table" / "trajectorie.yaml")


def test_collecting_copies_what_is_fit_and_says_what_is_not(tmp_path):
    committed = Path(__file__).parents[2] / "results" / "records" / "digits_legs"
    good = records.read(sorted(committed.glob("*.json"))[0])
    lost = {"command": None}
    for name, change in (("lost", lost), ("lost_too", lost), ("good", {}), ("dirty", DIRTY)):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        records.write(tmp_path / "outputs" / name / "record.json", good | change)
    copied, replaced, *said = collect([tmp_path / "outputs"], tmp_path / "results")
    assert copied == replaced  # what is committed takes the place of what is not
    first = tmp_path / "outputs" / "lost" / "record.json"
    assert said == [f"left out {first} and 1 more: it was not made by hippo train, so that no command gives it again"]
    (kept,) = read_all(tmp_path / "results")
    assert kept | {"history": good["history"]} == good
    assert (tmp_path / "results" / "records" / good["name"] / f"{good['id']}.svg").is_file()
    assert len(list(collect([tmp_path / "outputs"], tmp_path / "results"))) == 1  # nothing new but what is left out


def test_a_table_of_ones_own_has_no_word_on_the_literature():
    spec = {key: value for key, value in SPEC.items() if key != "source"}
    with pytest.raises(ValueError, match="source: it has to say where the reported figures come from"):
        Table.model_validate(spec)
    rows = {name: {k: v for k, v in row.items() if k != "reported"} for name, row in spec["rows"].items()}
    words = " ".join(legend(Table.model_validate(spec | {"rows": rows})))
    assert "the number of seeds." in words
    assert "†" not in words
    assert "None" not in words


def test_columns_show_more_than_what_a_test_came_to():
    record = {
        "parameters": 1200,
        "seconds": 90.0,
        "metrics": {"best": {"validation": {"loss": 0.4, "accuracy": 0.8}, "test": {"loss": 0.5, "accuracy": 0.7}}},
    }
    expected = {"validation_accuracy": 80, "validation_loss": 0.4, "parameters": 1200, "minutes": 1.5, "loss": 0.5}
    for metric, value in expected.items():
        assert score(record, Column(label="x", metric=metric)) == value
