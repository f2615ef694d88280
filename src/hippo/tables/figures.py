"""The picture of a table: accuracy against shift.

The report draws the same numbers by `hippo.tables.charts`, with a legend of buttons that only a page can have. This
picture stands alone, in a README or on a slide, where a legend has to be laid out with it.
"""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from hippo.tables.statistics import summarize
from hippo.tables.table import Cell, Table, along_curve


def draw_shifts(table: Table, cells: list[Cell], found: Mapping[tuple[str, str], dict], path: Path) -> None:
    """Draw each model's accuracy along the curves of a table's figure into an image file.

    Lines are means over seeds. Where there are three or more, a band is the mean's 95 % interval; where there are
    fewer, each is a dot.
    """
    runs = {(cell.row, cell.column): cell.runs for cell in cells}
    figure = Figure(figsize=(4.2 * len(table.figure), 4.2), layout="constrained")
    axes = figure.subplots(1, len(table.figure), sharey=True, squeeze=False)[0]
    drawn = {}
    for panel, ax in zip(table.figure, axes, strict=True):
        values: list[float] = []
        for name, row in table.rows.items():
            records = [found[key] for run in runs[name, panel.column] if (key := (run.name, run.id)) in found]
            scores: dict[float, list[float]] = {}
            for record in records:
                for value, score in along_curve(record, panel.curve).items():
                    scores.setdefault(value, []).append(score)
            if not scores:
                continue
            values, color = sorted(scores), f"C{table.color(name)}"
            summaries = [summarize(scores[value]) for value in values]
            (drawn[row.label],) = ax.plot(
                values,
                [s.mean for s in summaries],
                color=color,
                ls="--" if row.variant_of else "-",
                lw=2.6 if row.thick else 1.4,
                zorder=3 if row.thick else 2,
            )
            bands = [s.interval for s in summaries if s.interval]
            if len(bands) == len(summaries):
                ax.fill_between(values, *zip(*bands, strict=True), color=color, alpha=0.2, lw=0)
            else:
                for value, summary in zip(values, summaries, strict=True):
                    ax.plot([value] * len(summary.values), summary.values, ".", color=color, ms=3)
        ax.axvline(panel.trained, color="0.6", lw=0.8, ls=":", zorder=1)
        if panel.curve != "drop" and values:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator([v for v in values if v in (0.25, 0.5, 1, 2, 4)]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.set(title=panel.title, xlabel=panel.axis, ylim=(0, 101))
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("test accuracy, %")
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=min(len(drawn), 7) or 1, frameon=False)
    figure.savefig(path, dpi=130)
