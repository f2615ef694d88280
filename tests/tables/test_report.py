"""The page of all results: its figures, what it loads, what it makes of strange records, and how a browser takes it."""

import contextlib
import copy
import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from hippo.tables.charts import Scale, chart, matrix
from hippo.tables.collect import by_name, read_all, unfit
from hippo.tables.page import every_run, page
from hippo.tables.render import MARKS, entries
from hippo.tables.report import MOST_EPOCHS, curves, learning_curves, report, write_report
from hippo.tables.table import READINGS, Cell, Table
from hippo.training import records
from hippo.training.sweeps import Run

RESULTS = Path(__file__).parents[2] / "results"
SPEC = {
    "title": "A table",
    "source": "a paper",
    "seeds": [0, 1, 2],
    "columns": {
        "plain": {"label": "no shift", "overrides": []},
        "slow": {"label": "slow, 50 %", "overrides": [], "shift": "half_rate"},
        "still": {"label": "still", "overrides": []},
    },
    "rows": {
        "gru": {
            "label": "GRU",
            "overrides": [],
            "reported": {"plain": [50.0, "recalled"], "slow": [60.0, "third-hand"], "still": [12.5, "read"]},
        },
        "legs": {"label": "LegS", "overrides": [], "note": "of two seeds", "thick": True},
    },
    "notes": ["a note"],
    "figure": [
        {"title": "rates", "axis": "rate", "column": "plain", "curve": "rate", "trained": 1},
        {"title": "drops", "axis": "dropped", "column": "still", "curve": "drop", "trained": 0},
    ],
}
RUNS = {("gru", "plain"): 3, ("gru", "slow"): 3, ("legs", "plain"): 2, ("legs", "slow"): 2}  # those that are complete
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def committed():
    return by_name(read_all(RESULTS))


@pytest.fixture(scope="module")
def table():
    return Table.model_validate(SPEC)


@pytest.fixture
def filled(committed):
    """The table's cells, and records of some of their runs, made of committed ones."""
    like = {
        name: next(run for run in committed.values() if run["name"] == f"trajectories_{name}") for name in SPEC["rows"]
    }
    cells, found = [], {}
    for row in SPEC["rows"]:
        for column in SPEC["columns"]:
            runs = []
            for seed in range(3):
                overrides = (f"model={row}", f"+still={column == 'still'}", f"seed={seed}")
                run = Run(overrides, f"own_{row}", f"{column:_<8}-seed{seed}", {"seed": seed})
                runs.append(run)
                if seed < RUNS.get((row, column), 0):
                    record = copy.deepcopy(like[row])
                    record |= {"name": run.name, "id": run.id, "seed": seed, "command": run.command}
                    record["hash"] = run.id.partition("-")[0]
                    for metrics in record["metrics"].values():
                        for scores in (metrics, *metrics["shifted"].values()):
                            scores["test"]["accuracy"] -= 0.02 * seed
                    found[run.name, run.id] = record
            cells.append(Cell(row, column, runs))
    return cells, found


class Page(HTMLParser):
    """What a test asks of a page: its elements, and the text of its table cells.

    Attributes:
        elements: Names and attributes.
        tables: By what encloses them, rows of cells.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.tables, self._rows, self._inside = [], {}, [], "page"
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._inside = attributes.get("data-reading", attributes.get("aria-label", self._inside))
        if tag == "table":
            self._rows = self.tables.setdefault(self._inside, [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._rows = []

    def handle_data(self, data):
        if self._rows and self._rows[-1]:
            self._rows[-1][-1] = " ".join(f"{self._rows[-1][-1]} {data}".split())

    def attributes(self, *names: str) -> list[str]:
        return [value for _, attributes in self.elements for name, value in attributes.items() if name in names]


def test_the_figures_of_a_table_are_those_of_its_records(table, filled):
    page = Page(report({"own": (table, filled[0])}, filled[1]))
    for reading in READINGS:
        shown = entries(table, *filled, reading)
        head, *rows = page.tables[reading]
        assert head[1:] == [column.label for column in table.columns.values()]
        for row, texts in zip(table.rows, rows, strict=True):
            for column, text in zip(table.columns, texts[1:], strict=True):
                entry = shown[row, column]
                expected = "missing"
                if entry.ours:
                    expected = f"{entry.ours.mean:.1f}"
                    if entry.ours.interval:
                        expected += " [{:.1f}, {:.1f}]".format(*entry.ours.interval)
                    seeds = len(entry.ours.values)
                    expected += " 3 seeds" if seeds == 3 else f" {seeds} of 3 seeds"
                if entry.reported:
                    expected += f" reported {entry.reported[0]:.1f} {MARKS[entry.reported[1]]}".rstrip()
                if entry.difference is not None:
                    expected += f" , {entry.difference:+.1f}".replace("-", "−")
                assert text == expected, (row, column, reading)
        assert [text.partition(" reported")[0] for texts in rows for text in texts[1:]].count("missing") == 2
    assert len({str(page.tables[reading]) for reading in READINGS}) == len(READINGS)


def test_each_run_is_shown_with_its_record_and_its_command(committed):
    text = report({}, committed)
    page, unescaped = Page(text), html.unescape(text)
    links = {unquote(link) for link in page.attributes("href") if link.startswith("records/")}
    assert links == {f"records/{name}/{run}.json" for name, run in committed}
    assert all((RESULTS / link).is_file() for link in links)
    head, *rows = page.tables["Every run"]
    for row, record in zip(rows, committed.values(), strict=True):
        cell = dict(zip(head, row, strict=True))
        assert cell["run"] == f"{record['name']} {record['id']}"
        for name, reading in (("test", "best"), ("last epoch", "last")):
            test = record["metrics"][reading]["test"]
            score = f"{100 * test['accuracy']:.2f} %" if record["classes"] else f"{test['loss']:.4g}"
            assert cell[name] == score
        assert cell["parameters"] == f"{record['parameters']:,}"
        assert cell["minutes"] == f"{record['seconds'] / 60:.1f}"
        assert cell["commit"] == record["git"]["commit"][:10]
        assert record["machine"]["cpu"] in cell["machine"]
        assert f"<code>{record['command']}</code>" in unescaped


def test_what_is_missing_comes_with_its_command_and_a_table_with_its_notes(table, filled):
    text = report({"own": (table, filled[0])}, filled[1])
    for run in (run for cell in filled[0] for run in cell.runs):
        assert f"<code>{run.command}</code>" in text
    for words in (
        "10 of 18 runs are done",
        "hippo reproduce own",
        "a note",
        "LegS: of two seeds",
        "recalled",
    ):
        assert words in text


def test_accuracy_against_shift_has_a_band_from_three_seeds_on_and_dots_below(table, filled):
    text = report({"own": (table, filled[0])}, filled[1])
    rates, drops = re.findall(r'<figure class="panel">.*?</figure>', text, re.DOTALL)
    assert 'class="band c0"' in rates
    assert 'class="dot c0"' not in rates
    assert 'class="band c1' not in rates
    points = sum(point["kind"] == "rate" for point in filled[1]["own_legs", "plain___-seed0"]["curve"])
    assert rates.count('class="dot c1 thick"') == 2 * points
    assert "<svg" not in drops
    assert "missing" in drops
    head, first, *_ = Page(text).tables["rates, numbers"]
    point = filled[1]["own_legs", "plain___-seed0"]["curve"][0]
    assert head == ["rate", "GRU", "LegS"]
    assert (first[0], first[2]) == (f"{point['value']:g}", f"{100 * point['accuracy']:.1f}")


def test_nothing_is_loaded(table, filled):
    text = report({"own": (table, filled[0])}, filled[1])
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "video",
        "audio",
        "form",
    }
    assert all(link.startswith(("#", "records/", "data:,")) for link in page.attributes("href", "src", "srcset"))
    assert not re.search(r"https?://|url\(|@import|\bimport\b|fetch\(", text)
    policy = next(
        attributes["content"]
        for tag, attributes in page.elements
        if "content" in attributes and "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'; ")


HOSTILE = "\"><script>alert(1)</script></style><b onclick=x> '`{{ 7*7 }}javascript:/../&amp;"


def test_what_is_hostile_stays_text(table, filled, committed):
    plain = Page(report({"own": (table, filled[0])}, filled[1]))
    key, record = next(iter(filled[1].items()))
    record |= {"command": HOSTILE, "name": HOSTILE, "id": HOSTILE}
    record["machine"]["cpu"] = record["git"]["commit"] = HOSTILE
    found = {key: record, (HOSTILE, HOSTILE): record, **filled[1]}
    rows = {
        HOSTILE if name == "gru" else name: row.model_copy(update={"label": HOSTILE, "note": HOSTILE})
        for name, row in table.rows.items()
    }
    columns = {name: column.model_copy(update={"label": HOSTILE}) for name, column in table.columns.items()}
    own = table.model_copy(
        update={"title": HOSTILE, "source": HOSTILE, "notes": [HOSTILE], "rows": rows, "columns": columns}
    )
    cells = [cell._replace(row=HOSTILE) if cell.row == "gru" else cell for cell in filled[0]]
    text = report({HOSTILE: (own, cells)}, found)
    page = Page(text)
    assert "<script>alert" not in text
    assert HOSTILE in html.unescape(text)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(link.startswith(("#", "records/", "data:,")) for link in page.attributes("href"))


def test_the_same_records_give_the_same_bytes(table, filled, tmp_path):
    first = write_report({"own": (table, filled[0])}, filled[1], tmp_path)
    assert first == tmp_path / "report.html"
    before = first.read_bytes()
    write_report({"own": (table, filled[0])}, copy.deepcopy(filled[1]), tmp_path)
    assert first.read_bytes() == before
    assert list(tmp_path.iterdir()) == [first]


def test_records_with_less_in_them_are_shown_too(table, filled):
    bare = next(iter(filled[1].values()))
    for key in ("history", "curve", "earlier"):
        bare.pop(key, None)
    bare["metrics"] = {kind: bare["metrics"][kind] for kind in ("best", "last")}
    for metrics in bare["metrics"].values():
        metrics.pop("shifted")
    bare["command"] = None
    page = Page(report({"own": (table, filled[0])}, {(bare["name"], bare["id"]): bare}))
    assert page.tables["best"][1][1].startswith(f"{100 * bare['metrics']['best']['test']['accuracy']:.1f} 1 of 3 seeds")
    assert page.tables["best"][1][2].startswith("missing")
    assert "0 runs of 0 settings" in report({"own": (table, filled[0])}, {})


def test_a_curve_is_thinned_and_broken_where_a_run_diverged(filled):
    run = next(iter(filled[1].values()))
    first = run["history"][0]
    run["history"] = [first | {"epoch": epoch} for epoch in range(1, 1001)]
    loss, gain = learning_curves([run])
    assert all(line.shape.count("L") < MOST_EPOCHS for line in loss.lines + gain.lines)
    assert gain.x.high == 1000
    run["history"] = [first | {"epoch": epoch} for epoch in range(1, 6)]
    run["history"][2] |= {"validation/loss": None, "train/loss": 0.0, "validation/accuracy": None}
    loss, gain = learning_curves([run])
    assert all(line.shape.count("M") == 2 for line in loss.lines + gain.lines)
    assert len(loss.lines) == 2
    for epoch in run["history"]:
        epoch |= {"validation/loss": None, "train/loss": None}
    assert [drawn.ylabel for drawn in learning_curves([run])] == ["validation accuracy, %"]


def test_the_confusion_matrices_of_a_setting_are_added_up(table, filled):
    shown = matrix(["a", "b"], [[[3, 1], [0, 4]], [[2, 2], [0, 4]], []])
    assert shown.squares == [
        (0, 0, 0.62, "a → a: 5 of 8"), (1, 0, 0.38, "a → b: 3 of 8"), (1, 1, 1.0, "b → b: 8 of 8")
    ]  # fmt: skip
    assert matrix(["a", "b"], [[[1, 1]]]) is None
    assert matrix([], [[]]) is None
    cells, found = filled
    text = html.unescape(report({"own": (table, cells)}, found))
    first = next(iter(found.values()))
    setting = [
        run["confusion"] for run in found.values() if run["hash"] == first["hash"] and run["name"] == first["name"]
    ]
    right = sum(confusion[0][0] for confusion in setting)
    letter, total = first["classes"][0], sum(sum(confusion[0]) for confusion in setting)
    assert f"{letter} → {letter}: {right} of {total}" in text


def test_scales_lay_numbers_out():
    line = Scale(0, 100, 200, 0)
    assert [line(value) for value in (0, 25, 100)] == [200, 150, 0]
    assert line.ticks == [(200, "0"), (160, "20"), (120, "40"), (80, "60"), (40, "80"), (0, "100")]
    assert [label for _, label in Scale(1, 3, 0, 1, whole=True).ticks] == ["1", "2", "3"]
    log = Scale(0.25, 4, 0, 40, log=True, at=(0.25, 1, 4))
    assert log.ticks == [(0, "0.25"), (20, "1"), (40, "4")]
    assert [label for _, label in Scale(0.003, 2, 0, 1, log=True).ticks] == ["0.01", "0.1", "1"]
    assert Scale(3, 3, 10, 20)(3) == Scale(3, 3, 10, 20, log=True)(3) == 10
    assert chart("", "", "", [], []) is chart("", "", "", [1], [None]) is None


PROBE = """
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (selector) => all(selector).filter(element => element.checkVisibility()).length;
const found = {readings: shown(".reading"), rows: shown("#runs tbody tr")};
found.wide = document.documentElement.scrollWidth - innerWidth;
all("input[value=last]")[0].click();
found.last = all(".reading").filter(element => element.checkVisibility()).map(element => element.dataset.reading);
const sort = all("#runs thead button")[1];
const column = () => all("#runs tbody tr").map(row => parseFloat(row.cells[1].textContent));
sort.click(); found.up = column(); sort.click(); found.down = column();
found.sorted = all("#runs [aria-sort]").map(head => head.ariaSort);
const box = document.getElementById("filter");
box.value = "OWN_legs  seed1"; box.dispatchEvent(new Event("input"));
found.filtered = shown("#runs tbody tr"); found.cards = shown(".setting");
found.count = document.getElementById("shown").value;
all("button.figure")[0].click();
found.open = all(":popover-open h3").map(title => title.textContent);
found.loaded = performance.getEntriesByType("resource").map(entry => entry.name);
const probe = document.createElement("pre");
probe.id = "probe"; probe.textContent = JSON.stringify(found);
document.body.append(probe);
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on the PATH")
def test_a_browser_shows_it_switches_sorts_and_filters(table, filled, tmp_path):
    path = write_report({"own": (table, filled[0])}, filled[1], tmp_path)
    path.write_text(path.read_text().replace("</script>", PROBE))
    command = [
        BROWSER,
        "--headless=new",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=500,900",
    ]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # which root has to do without
    command += ["--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)[1]))
    assert found["readings"] == 1
    assert found["last"] == ["last"]
    assert found["rows"] == len(filled[1]) == len(found["up"])
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["sorted"] == ["descending"]
    assert (found["filtered"], found["count"]) == (2, "2 of 10 runs")
    assert found["cards"] == 2
    assert found["open"] == ["GRU, no shift"]
    assert found["wide"] <= 0
    assert found["loaded"] == []


SHORT = ("trajectories_gru", "function_approximation_memory", "digits_lagt")
STRANGE = (None, [], {}, 10**400, -1, HOSTILE, [[1]], {"a": [None]}, "${oc.env:HOME}", ...)


def places(value, path=()):
    """Yield the path of everything in a record, of a list's items that of the first."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else [*enumerate(value)][:1]:
            yield from places(item, (*path, key))


@pytest.mark.parametrize("name", SHORT)
def test_whatever_stands_at_a_place_of_a_record_it_is_refused_or_shown(name, tmp_path):
    """Under the hash of what it became, as somebody would write it who wants it to be collected."""
    good = json.loads(next((RESULTS / "records" / name).glob("*.json")).read_text())
    good |= {"history": good["history"][:2], "classes": good["classes"][:2], "versions": {"torch": "2"}}
    path, shown = tmp_path / "record.json", []
    for number, place in enumerate(places(good)):
        record = copy.deepcopy(good)
        node = record
        for key in place[:-1]:
            node = node[key]
        value = STRANGE[number % len(STRANGE)]
        if value is ...:
            del node[place[-1]]
        else:
            node[place[-1]] = value
        if place[0] == "config" and len(place) > 1:
            with contextlib.suppress(Exception):
                record["hash"] = records.config_hash(record["config"])
                record["id"] = f"{record['hash']}-seed{record['seed']}"
        path.write_text(json.dumps(record))
        with contextlib.suppress(records.RecordError):
            shown.append(records.read(path))
            unfit(shown[-1])
            records.write(path, shown[-1])
            ElementTree.fromstring(curves(shown[-1]))
    assert 10 < len(shown) < 0.7 * number
    for text in (report({}, by_name(shown)), page({}, shown, {})):
        text.encode()
        assert "<script>alert" not in text
    markdown = re.sub(r"`[^`\n]*`", "", "\n".join(every_run(shown)))  # code in it is text
    assert not set(re.findall(r"<(\w+)", markdown)) - {"code"}
