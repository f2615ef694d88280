"""All results on one page, an HTML file that loads nothing: tables, curves and runs, each figure with its record."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hippo.files import write_atomically
from hippo.tables.charts import Chart, chart, matrix
from hippo.tables.describe import commit, hardware, link, mark, rate, result, what
from hippo.tables.render import MARKS, Entry, best, comparison, entries, interval, meaning, quantities
from hippo.tables.statistics import Summary, summarize
from hippo.tables.table import READINGS, Cell, Panel, Table, along_curve, score
from hippo.training.sources import MARK
from hippo.training.sweeps import Run

Record = dict[str, Any]
Records = Mapping[tuple[str, str], Record]
MOST_EPOCHS = 120  # drawn of a curve: a chart is hardly wider in pixels
DRAWN = ("epoch", "train/loss", "validation/loss", "validation/accuracy")
COLORS = 10


class Seed(NamedTuple):
    """A run behind a cell, its record if there is one, and by reading what the cell takes from it."""

    run: Run
    record: Record | None
    scores: dict[str, float | None]


class ShownCell(NamedTuple):
    """A cell: a key that names it on the page, its row and column in words, by reading what it shows, its runs."""

    key: str
    title: str
    entries: dict[str, Entry]
    seeds: list[Seed]

    @property
    def records(self) -> list[Record]:
        return [seed.record for seed in self.seeds if seed.record]


class ShownPanel(NamedTuple):
    """Accuracy against shift: a chart, if its records have the curve; its values of x; by row, a summary at each."""

    spec: Panel
    chart: Chart | None
    values: list[float]
    rows: dict[str, dict[float, Summary]]


class ShownTable(NamedTuple):
    """A table: its cells by row and column, by reading the best mean of each column, and the runs it needs."""

    name: str
    spec: Table
    cells: dict[tuple[str, str], ShownCell]
    best: dict[str, dict[str, str]]
    panels: list[ShownPanel]
    needed: set[tuple[str, str]]


def write_report(tables: Mapping[str, tuple[Table, list[Cell]]], found: Records, results: Path) -> Path:
    """Write `results`/report.html, and return its path.

    Args:
        tables: By name, tables and their cells.
        found: Records by the names of their experiment and run.
        results: The folder of the records.
    """
    path = results / "report.html"
    write_atomically(path, report(tables, found))
    return path


def report(tables: Mapping[str, tuple[Table, list[Cell]]], found: Records) -> str:
    """Return the page; equal records give equal bytes."""
    settings: dict[tuple[str, str], list[Record]] = {}
    for record in found.values():
        settings.setdefault((record["name"], record["hash"]), []).append(record)
    return _template("report.html").render(
        readings=READINGS,
        tables=[_table(name, index, *table, found) for index, (name, table) in enumerate(tables.items())],
        settings=[
            (runs, learning_curves(runs), matrix(runs[0]["classes"], [run.get("confusion", []) for run in runs]))
            for runs in settings.values()
        ],
        keys={key: f"run-{index}" for index, key in enumerate(found)},
        found=found,
        what=what,
        hardware=hardware,
        link=link,
        commit=commit,
        mark=mark,
        uncommitted=MARK,
        rate=rate,
        result=result,
        interval=interval,
        quantities=quantities,
        comparison=comparison,
        marks=MARKS,
        meaning=meaning,
        colors=COLORS,
    )


def curves(record: Record) -> str:
    """Return the learning curves of a record by itself, as an SVG; equal records give equal text."""
    charts = learning_curves([record])
    width, height = 260 * max(2, len(charts)), 40 + 180 * bool(charts)
    return _template("curves.svg").render(record=record, charts=charts, width=width, height=height, result=result)


@functools.cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("hippo.tables"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def drawn(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return what learning curves draw of a history: at most `MOST_EPOCHS` epochs, every so many and the last."""
    epochs = history[:: -max(1, math.ceil(len(history) / MOST_EPOCHS))][::-1]
    return [{key: epoch[key] for key in DRAWN if key in epoch} for epoch in epochs]


def learning_curves(runs: list[Record]) -> list[Chart]:
    """Return charts of the loss, and of the validation accuracy where there are classes, over the epochs, a color a
    seed; none without history. A dot is the epoch that is best in validation.
    """
    curves = {}
    for run in runs:
        curves[run["id"]] = drawn(run.get("history", []))
    points = [epoch for history in curves.values() for epoch in history]
    epochs = [epoch["epoch"] for epoch in points]
    losses = [epoch.get(f"{split}/loss") for epoch in points for split in ("train", "validation")]
    loss = chart("loss", "epoch", "loss", epochs, losses, logy=True, whole=True)
    accuracies = [epoch["validation/accuracy"] for epoch in points if "validation/accuracy" in epoch]
    gain = None
    if accuracies:
        gain = chart("validation accuracy", "epoch", "validation accuracy, %", epochs, (0, 100), whole=True)
    for index, run in enumerate(runs):
        history, color, seed = curves[run["id"]], f"c{index % COLORS}", f"seed {run['seed']}"
        if loss:
            for split in ("train", "validation"):
                line = [(epoch["epoch"], epoch.get(f"{split}/loss")) for epoch in history]
                loss.line(line, f"{color} {split}", f"{seed}, {split}")
        chosen = run["metrics"]["best"]
        if loss and history and not accuracies:
            text = f"{seed}, best epoch: {chosen['epoch']}, {result(chosen['validation'])}"
            loss.dot(chosen["epoch"], chosen["validation"]["loss"], color, text, link(run))
        if gain and history:
            scores = [(epoch["epoch"], epoch.get("validation/accuracy")) for epoch in history]
            gain.line([(x, None if y is None else 100 * y) for x, y in scores], color, seed)
            text = f"{seed}, best epoch: {chosen['epoch']}, {result(chosen['validation'])}"
            gain.dot(chosen["epoch"], 100 * chosen["validation"]["accuracy"], color, text, link(run))
    return [drawn for drawn in (loss, gain) if drawn]


def against_shift(panel: Panel, table: Table, shown: Mapping[tuple[str, str], ShownCell]) -> ShownPanel:
    """Return a panel of a table's figure: a line a row, with intervals, or dots where the seeds are too few."""
    curves = {
        row: [
            (record, curve)
            for record in shown[row, panel.column].records
            if (curve := along_curve(record, panel.curve))
        ]
        for row in table.rows
    }
    values = sorted({value for runs in curves.values() for _, curve in runs for value in curve})
    rows = {}
    for row, runs in curves.items():
        scores = {value: [curve[value] for _, curve in runs if value in curve] for value in values}
        rows[row] = {value: summarize(some) for value, some in scores.items() if some}
    log = panel.curve != "drop"
    marked = tuple(value for value in values if value in (0.25, 0.5, 1, 2, 4)) if log else ()
    x = [*values, panel.trained] if values else []
    drawn = chart(panel.title, panel.axis, "test accuracy, %", x, (0, 100), logx=log, at=marked, size=(360, 260))
    if drawn:
        drawn.rule = panel.trained
        for row, spec in table.rows.items():
            style = f"c{table.color(row) % COLORS}" + " dashed" * bool(spec.variant_of) + " thick" * spec.thick
            drawn.line([(value, summary.mean) for value, summary in rows[row].items()], style, spec.label)
            bounds = [(value, *summary.interval) for value, summary in rows[row].items() if summary.interval]
            if bounds and len(bounds) == len(rows[row]):
                drawn.band(bounds, style)
                continue
            for record, curve in curves[row]:
                for value, score in curve.items():
                    text = f"{spec.label}, seed {record['seed']}: {score:.1f} % at {value:g}"
                    drawn.dot(value, score, style, text, link(record))
    return ShownPanel(panel, drawn, values, rows)


def _table(name: str, index: int, table: Table, cells: list[Cell], found: Records) -> ShownTable:
    by_reading = {reading: entries(table, cells, found, reading) for reading in table.readings}
    shown = {}
    for number, (row, column, runs) in enumerate(cells):
        seeds = []
        for run in runs:
            record = found.get((run.name, run.id))
            scores = {kind: score(record, table.columns[column], kind) if record else None for kind in table.readings}
            seeds.append(Seed(run, record, scores))
        title = f"{table.rows[row].label}, {table.columns[column].label}"
        filled = {reading: by_reading[reading][row, column] for reading in table.readings}
        shown[row, column] = ShownCell(f"cell-{index}-{number}", title, filled, seeds)
    return ShownTable(
        name,
        table,
        shown,
        {
            kind: {column: best(table, filled, column) for column in table.columns}
            for kind, filled in by_reading.items()
        },
        [against_shift(panel, table, shown) for panel in table.figure],
        {(run.name, run.id) for cell in cells for run in cell.runs},
    )
