"""A table as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hippo.files import write_atomically
from hippo.tables.figures import draw_shifts
from hippo.tables.statistics import Summary, summarize
from hippo.tables.table import METRICS, Cell, Metric, Table, score
from hippo.training import sources

MARKS = {"read": "", "third-hand": "†", "recalled": "‡"}
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}#$%&_"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "→": "$\\to$"}
)
MEANINGS = {
    "third-hand": "† read in a third-party note that cites it",
    "recalled": "‡ recalled, not checked",
}


class Entry(NamedTuple):
    """What a cell shows: a summary of ours, how many runs it needs, and what was reported, with its standing.

    Attributes:
        ours: None where no run is complete.
        runs: Runs that the cell needs.
        reported: A figure, and its standing; None where nothing was.
        records: Where the records lie.
        metric: What it is that is shown.
        uncommitted: How many of its records are of code that is not committed.
    """

    ours: Summary | None
    runs: int
    reported: tuple[float, str] | None
    records: list[str]
    metric: Metric
    uncommitted: int

    @property
    def difference(self) -> float | None:
        return self.ours.mean - self.reported[0] if self.ours and self.reported else None

    @property
    def compared(self) -> str | None:
        """Ours beside what was reported, as it is printed."""
        return self.metric.compare(self.ours.mean, self.reported[0]) if self.ours and self.reported else None


def entries(
    table: Table, cells: list[Cell], found: Mapping[tuple[str, str], dict], reading: str = "best"
) -> dict[tuple[str, str], Entry]:
    """Return what each cell shows, by row and column.

    Args:
        table: The table.
        cells: Its cells.
        found: Records by the names of their experiment and run.
        reading: One of `hippo.tables.table.READINGS`.
    """
    filled = {}
    for row, column, runs in cells:
        values, paths, uncommitted = [], [], 0
        for run in runs:
            record = found.get((run.name, run.id))
            if record is None:
                continue
            value = score(record, table.columns[column], reading)
            if value is not None:
                values.append(value)
                paths.append(f"records/{run.name}/{run.id}.json")
                uncommitted += bool(sources.uncommitted(record))
        reported = table.rows[row].reported.get(column)
        metric = METRICS[table.columns[column].metric]
        ours = summarize(values) if values else None
        filled[row, column] = Entry(ours, len(runs), reported, paths, metric, uncommitted)
    return filled


def write_table(
    name: str, table: Table, cells: list[Cell], found: Mapping[tuple[str, str], dict], results: Path
) -> list[Path]:
    """Write `results`/tables/`name`.md, .tex and .csv, and .png where the table has a figure; return their paths."""
    (results / "tables").mkdir(parents=True, exist_ok=True)
    texts = written(name, table, cells, found, results)
    for path, content in texts.items():
        write_atomically(path, content)
    paths = list(texts)
    if table.figure:
        paths.append(results / "tables" / f"{name}.png")
        draw_shifts(table, cells, found, paths[-1])
    return paths


def written(
    name: str, table: Table, cells: list[Cell], found: Mapping[tuple[str, str], dict], results: Path
) -> dict[Path, str]:
    """Return the texts that `write_table` writes, by their paths."""
    by_reading = {reading: entries(table, cells, found, reading) for reading in table.readings}
    return {
        results / "tables" / f"{name}.md": "\n".join(page(name, table, by_reading)) + "\n",
        results / "tables" / f"{name}.tex": latex(table, by_reading["best"]),
        results / "tables" / f"{name}.csv": as_csv(table, by_reading),
    }


def page(name: str, table: Table, by_reading: Mapping[str, Mapping[tuple[str, str], Entry]]) -> list[str]:
    """Return the lines of a table's own page: the table under each reading, the notes, the figure."""
    lines = [f"# {table.title}", "", "Made from the records by `hippo reproduce`.", ""]
    for reading, meaning in table.readings.items():
        lines += [f"## At {meaning}", "", *markdown(table, by_reading[reading]), ""]
        if reading == "best":
            lines += [*legend(table), ""]
            if table.figure:
                lines += [f"![accuracy against shift]({name}.png)", ""]
    return lines[:-1]


def legend(table: Table) -> list[str]:
    """Return the lines that say what the cells show, and the table's notes."""
    return [
        explanation(table),
        *[line for note in table.notes for line in ("", note)],
        *[line for row in table.rows.values() if row.note for line in ("", f"{row.label}: {row.note}")],
    ]


def explanation(table: Table) -> str:
    """Return what the cells of a table show, in sentences."""
    means = f"In each cell: {quantities(table)}, the mean over seeds; its 95 % interval (Student's t) where there are\n"
    if not table.standings:
        return f"{means}three seeds or more; and the number of seeds."
    return (
        f"{means}three seeds or more; the number of seeds; beneath,\n"
        f"the figure of {table.source}, and {comparison(table)}.{meaning(table)}"
    )


def meaning(table: Table) -> str:
    """Return what the marks at reported figures mean, of those that there are; it begins with a space."""
    used = [text for standing, text in MEANINGS.items() if standing in table.standings]
    return f" {'; '.join(used)}." if used else ""


def quantities(table: Table) -> str:
    """Return what the cells of a table show, in words."""
    return ", or ".join(metric.name for metric in table.metrics)


def comparison(table: Table) -> str:
    """Return how ours is compared with what was reported, in words."""
    kinds = ("how many times it ours is" if metric.relative else "ours minus it" for metric in table.metrics)
    return ", or ".join(dict.fromkeys(kinds))


def markdown(table: Table, shown: Mapping[tuple[str, str], Entry]) -> list[str]:
    """Return the lines of a Markdown table: mean, 95 % interval, runs, and beneath, what was reported."""
    lines = [
        f"| | {' | '.join(column.label for column in table.columns.values())} |",
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for row_name, row in table.rows.items():
        texts = []
        for column in table.columns:
            entry = shown[row_name, column]
            texts.append(
                "<br>".join(part for part in (_ours(entry, best(table, shown, column)), _theirs(entry)) if part)
            )
        lines.append(f"| {row.label} | {' | '.join(texts)} |")
    return lines


def latex(table: Table, shown: Mapping[tuple[str, str], Entry]) -> str:
    """Return a LaTeX table for the booktabs package; reported figures in parentheses."""
    heads = " & ".join(["", *(_escape(column.label) for column in table.columns.values())])
    reported = f"; in parentheses: {table.source}.{meaning(table)}" if table.standings else ""
    lines = [
        f"% {table.title}; the mean over n seeds, and in brackets its 95 % interval, or the seeds where they are two"
        f"{reported}",
        f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
    ]
    lines += ["\\toprule", f"{heads} \\\\", "\\midrule"]
    for row_name, row in table.rows.items():
        texts = [_escape(row.label)]
        for column in table.columns:
            entry = shown[row_name, column]
            text = "--"
            if entry.ours:
                text = entry.metric.show(entry.ours.mean)
                text = f"\\textbf{{{text}}}" if text == best(table, shown, column) else text
                bounds = interval(entry) or (seeds(entry) if len(entry.ours.values) > 1 else "")
                text += f" {{\\scriptsize {f'[{bounds}], ' if bounds else ''}$n={len(entry.ours.values)}$}}"
                if entry.uncommitted:
                    text += "$^{\\dagger\\mathrm{uncommitted}}$"
            if entry.reported:
                mark = {"†": "\\dagger", "‡": "\\ddagger", "": ""}[MARKS[entry.reported[1]]]
                text += f" ({entry.metric.show(entry.reported[0])}{f'$^{mark}$' if mark else ''})"
            texts.append(text)
        lines.append(f"{' & '.join(texts)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def as_csv(table: Table, by_reading: Mapping[str, Mapping[tuple[str, str], Entry]]) -> str:
    """Return one line a cell and reading, with every seed's figure, and where there are any, how many of its runs are
    of code that is not committed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["row", "column", "reading", "mean", "low", "high", "values", "runs", "missing", "reported", "standing"]
    marked = any(entry.uncommitted for shown in by_reading.values() for entry in shown.values())
    writer.writerow([*head, "difference", "records", *(["uncommitted"] if marked else [])])
    for reading, shown in by_reading.items():
        for (row, column), entry in shown.items():
            ours = entry.ours
            writer.writerow(
                [
                    table.rows[row].label,
                    table.columns[column].label,
                    reading,
                    f"{ours.mean:.6g}" if ours else "",
                    *([f"{bound:.6g}" for bound in ours.interval] if ours and ours.interval else ["", ""]),
                    " ".join(f"{value:.6g}" for value in ours.values) if ours else "",
                    len(ours.values) if ours else 0,
                    entry.runs - (len(ours.values) if ours else 0),
                    *(entry.reported or ("", "")),
                    "" if entry.difference is None else f"{entry.difference:.6g}",
                    " ".join(entry.records),
                    *([entry.uncommitted] if marked else []),
                ]
            )
    return file.getvalue()


def best(table: Table, shown: Mapping[tuple[str, str], Entry], column: str) -> str:
    """Return the best mean of a column, as it is printed."""
    metric = METRICS[table.columns[column].metric]
    means = [ours.mean for row in table.rows if (ours := shown[row, column].ours)]
    return metric.show(metric.best(means)) if means else ""


def interval(entry: Entry) -> str:
    """Return the bounds of a cell's interval, as they are printed."""
    return ", ".join(entry.metric.show(bound) for bound in (entry.ours.interval if entry.ours else None) or ())


def seeds(entry: Entry) -> str:
    """Return the seeds' own figures, as they are printed."""
    return ", ".join(entry.metric.show(value) for value in (entry.ours.values if entry.ours else ()))


def _ours(entry: Entry, best_mean: str) -> str:
    if entry.ours is None:
        return "missing" if entry.runs else ""
    mean = entry.metric.show(entry.ours.mean)
    parts = [f"**{mean}**" if mean == best_mean else mean]
    if entry.ours.interval:
        parts.append(f"[{interval(entry)}]")
    of = len(entry.ours.values)
    parts.append(f"({of})" if of == entry.runs else f"({of} of {entry.runs})")
    if entry.uncommitted:
        parts.append(sources.MARK)
    return " ".join(parts)


def _theirs(entry: Entry) -> str:
    if entry.reported is None:
        return ""
    figure, standing = entry.reported
    difference = "" if entry.compared is None else f", {entry.compared}"
    return f"reported {entry.metric.show(figure)}{MARKS[standing]}{difference}"


def _escape(text: str) -> str:
    return text.translate(_LATEX)
