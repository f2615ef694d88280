"""What is committed fits the records, or one sentence says what does not."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from hippo.files import write_atomically
from hippo.tables.check import faults, in_prose, read_benchmarks
from hippo.tables.collect import by_name, draw, read_all
from hippo.tables.page import every_model, page
from hippo.tables.render import write_table
from hippo.tables.table import every_table

ROOT = Path(__file__).parents[2]
TABLE = {
    "title": "Two networks",
    "source": "nowhere",
    "seeds": [0],
    "columns": {"plain": {"label": "digits", "overrides": ["experiment=digits"]}},
    "rows": {name: {"label": name.upper(), "overrides": [f"model={name}"]} for name in ("gru", "legs")},
}


def write(root: Path) -> None:
    """As `hippo report` does."""
    results = root / "results"
    found, tables = read_all(results, each=draw), every_table(root / "configs")
    for name, (table, cells) in tables.items():
        write_table(name, table, cells, by_name(found), results)
    write_atomically(results / "README.md", page(tables, found, read_benchmarks(results)))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A small project: the configurations with one table, the records of two models, one benchmark, a README."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", root / "configs", ignore=shutil.ignore_patterns("table"))
    (root / "configs" / "table").mkdir()
    (root / "configs" / "table" / "two.yaml").write_text(yaml.safe_dump(TABLE))
    for name in ("digits_gru", "digits_legs"):
        shutil.copytree(ROOT / "results" / "records" / name, root / "results" / "records" / name)
    (root / "results" / "benchmarks").mkdir()
    shutil.copy(ROOT / "results" / "benchmarks" / "models.json", root / "results" / "benchmarks")
    (root / "README.md").write_text("# A project\n")
    write(root)
    return root


@pytest.fixture
def project(committed, tmp_path):
    return Path(shutil.copytree(committed, tmp_path / "project"))


def test_what_was_just_written_has_no_fault(project):
    assert list(faults(project)) == []


def test_each_kind_of_fault_is_one_sentence_that_names_the_file(project):
    one, two, *_ = sorted((project / "results" / "records" / "digits_gru").glob("*.json"))
    content = json.loads(one.read_text())
    content["metrics"]["best"]["test"]["accuracy"] = 0.5
    one.write_text(json.dumps(content))
    two.with_suffix(".svg").unlink()
    (project / "README.md").write_text("It takes 12.3 s<!-- results/benchmarks/models.json: size.batch -->.\n")
    said = list(faults(project))
    written = (project / "results" / "README.md", *(project / "results" / "tables").glob("two.*"))
    stale = {one.with_suffix(".svg"), two.with_suffix(".svg"), *written}
    assert all(any(line.startswith(f"{path} is not what the records give") for line in said) for path in stale)
    assert any("it says 12.3 where results/benchmarks/models.json: size.batch gives 100.0" in line for line in said)
    assert len(said) == len(stale) + 1
    write(project)
    assert len(list(faults(project))) == 1


def test_records_that_do_not_parse_or_do_not_fit_are_named(project):
    records = sorted((project / "results" / "records").rglob("*.json"))[:3]
    content = json.loads(records[0].read_text())
    records[0].write_text("{")
    other = json.loads(records[1].read_text())
    other["config"]["optimizer"]["lr"] = 7
    records[1].write_text(json.dumps(other))
    records[2].write_text(json.dumps(content))
    (project / "results" / "benchmarks" / "models.json").write_text("[")
    said = list(faults(project))
    assert [str(path) in line for path, line in zip(records, said[:3], strict=True)] == [True] * 3
    assert "is not a record" in said[0]
    assert "not that of the configuration" in said[1]
    assert "holds the record of" in said[2]
    assert "models.json is not a record" in said[3]
    assert len(said) == 4


def test_a_project_without_any_record_has_a_page(project):
    shutil.rmtree(project / "results")
    (project / "results").mkdir()
    write(project)
    assert list(faults(project)) == []
    assert "No run" in (project / "results" / "README.md").read_text()


CSV = "row,column,reading,mean\nLegS,no shift,best,95.94\nLegS,no shift,last,12.3\nGRU,no shift,best,7.25\n"


@pytest.fixture
def figures(tmp_path):
    folder = tmp_path / "results" / "tables"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(CSV)
    (tmp_path / "results" / "b.json").write_text(json.dumps({"speeds": [{"rate": 2e6}, {"rate": 4_500_000}], "x": "y"}))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("95.9 %<!-- results/tables/a.csv: LegS / no shift -->", None),
        ("96<!-- results/tables/a.csv: LegS / no shift -->", None),
        ("95.8 %<!-- results/tables/a.csv: LegS / no shift -->", "it says 95.8 where"),
        ("12.3<!-- results/tables/a.csv: LegS / no shift -->", "gives 95.9"),
        ("4.5 million<!-- results/b.json: speeds.1.rate * 1e-6 -->", None),
        ("3.25<!-- results/b.json: speeds.*.rate * 1e-6 -->", None),
        ("4,500,000<!-- results/b.json: speeds.-1.rate -->", None),
        ("4.4<!-- results/b.json: speeds.1.rate * 1e-6 -->", "gives 4.5"),
        ("4.4<!-- results/b.json: speeds.7.rate -->", "cannot be read"),
        ("4.4<!-- results/b.json: x -->", "cannot be read"),
        ("4.4<!-- results/none.json: x -->", "cannot be read"),
        ("<!-- results/tables/a.csv -->\n| | no shift |\n|---|---|\n| LegS | **95.9** |\n| GRU | 7.2 |\n", None),
        ("<!-- results/tables/a.csv -->\n| | no shift |\n|---|---|\n| LegS | 95.9 |\n| GRU | 7.3 |\n", "it says 7.3"),
        ("<!-- results/tables/a.csv -->\n| | no shift |\n|---|---|\n| LSTM | 95.9 |\n", "no shift, which cannot"),
        ("## Results\nIt reaches 95.9 %.\n", "95.9 stands under Results and names no record"),
        ("## Results\n`lr=0.5`, [a](b/0.5)\n## More\n2.5\n", None),
    ],
)
def test_a_figure_in_prose_is_that_of_its_record(figures, text, fault):
    said = list(in_prose(text, figures))
    assert len(said) == bool(fault)
    assert all(fault in line for line in said)


def test_the_readme_ties_its_figures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert list(in_prose(text, ROOT)) == []
    changed = text.replace("| LegS memory, linear read-out | 98.1", "| LegS memory, linear read-out | 98.2")
    assert len(list(in_prose(changed, ROOT))) == 1


def test_a_model_that_was_not_timed_and_a_run_of_another_size_stop_nothing():
    found, timing = read_all(ROOT / "results"), read_benchmarks(ROOT / "results")["models"]
    before = every_model(found, timing)
    own = json.loads(json.dumps(next(record for record in found if record["name"] == "digits_gru")))
    own["name"] = "digits_mine"
    other = json.loads(json.dumps(own))
    other["name"], other["config"]["model"]["hidden_size"] = "digits_gru", 64
    after = every_model([*found, own, other], timing)
    assert [line for line in after if "`mine`" not in line] == before
    assert any("`mine`" in line and line.endswith("| – | – | – |") for line in after)
    assert all(line.endswith("| – | – | – |") for line in every_model(found, None) if line.startswith("| `l"))
