"""What a sweep came to: a small table of its settings, each with its seeds, and a picture of the same."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from hippo.files import write_atomically
from hippo.tables.statistics import Summary, summarize


class Setting(NamedTuple):
    """What a setting came to over its seeds.

    Attributes:
        choices: What was chosen for each key that varies.
        validation: Of the best epoch, accuracy in per cent, or the loss where there are no classes.
        test: The same of the test split.
        parameters: That are learnt.
        minutes: The mean over the seeds.
    """

    choices: tuple[str, ...]
    validation: Summary
    test: Summary
    parameters: int
    minutes: float


def settings(found: Sequence[tuple[Mapping[str, str], dict[str, Any]]]) -> tuple[list[str], list[Setting]]:
    """Return the keys that vary, without the seed, and what each setting came to, the best in validation first.

    Args:
        found: The overrides of each run, by their keys, and its record.
    """
    names = list(dict.fromkeys(key for overrides, _ in found for key in overrides if key != "seed"))
    keys = [key for key in names if len({overrides.get(key) for overrides, _ in found}) > 1]
    together: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for overrides, record in found:
        together.setdefault(tuple(overrides.get(key, "") for key in keys), []).append(record)
    shown = [Setting(choices, *_scores(of), of[0]["parameters"], _minutes(of)) for choices, of in together.items()]
    falling = bool(found) and bool(found[0][1]["classes"])
    return keys, sorted(shown, key=lambda one: _worth(one, falling))


def _worth(one: Setting, falling: bool) -> float:
    """Return what settings are sorted by, the best first; what diverged comes last."""
    mean = one.validation.mean
    return math.inf if math.isnan(mean) else -mean if falling else mean


def _minutes(of: list[dict[str, Any]]) -> float:
    return sum(record["seconds"] for record in of) / len(of) / 60


def _scores(of: list[dict[str, Any]]) -> tuple[Summary, Summary]:
    """Return the validation's and the test's scores over seeds; what diverged has none."""
    name, factor = ("accuracy", 100) if of[0]["classes"] else ("loss", 1)
    values = ([record["metrics"]["best"][split][name] for record in of] for split in ("validation", "test"))
    validation, test = ([float("nan") if value is None else factor * value for value in each] for each in values)
    return summarize(validation), summarize(test)


def spread(summary: Summary) -> str:
    """Return a mean with its 95 % interval from three seeds on, and with the seeds' own values below that."""
    if summary.interval:
        return f"{summary.mean:.4g} [{summary.interval[0]:.4g}, {summary.interval[1]:.4g}]"
    if len(summary.values) > 1:
        return f"{summary.mean:.4g} ({', '.join(f'{value:.4g}' for value in summary.values)})"
    return f"{summary.mean:.4g}"


def text(keys: list[str], rows: list[Setting], score: str) -> str:
    """Return the table in Markdown, its columns aligned."""
    head = [*keys, "seeds", f"validation {score}", f"test {score}", "parameters", "minutes"]
    lines = [head]
    for row in rows:
        numbers = [str(len(row.test.values)), spread(row.validation), spread(row.test)]
        lines.append([*row.choices, *numbers, f"{row.parameters:,}", f"{row.minutes:.1f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def draw(keys: list[str], rows: list[Setting], score: str, path: Path) -> None:
    """Draw each setting's seeds and their mean, in validation and in test, into an image file."""
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for split, color, shift in (("validation", "C0", -0.12), ("test", "C1", 0.12)):
        for place, row in enumerate(rows):
            summary: Summary = getattr(row, split)
            axes.plot(summary.values, [place + shift] * len(summary.values), "o", color=color, ms=4, alpha=0.5)
            label = f"{split}, a dot a seed, a line their mean" if place == 0 else None
            axes.plot([summary.mean] * 2, [place + shift - 0.1, place + shift + 0.1], color=color, lw=2, label=label)
    axes.set_yticks(range(len(rows)), [", ".join(row.choices) or "all" for row in rows])
    axes.set(xlabel=score, ylabel=", ".join(keys))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def write(found: Sequence[tuple[Mapping[str, str], dict[str, Any]]], outputs: Path) -> str:
    """Write the table and the picture of a sweep below the folder of all runs; return what is to be said of it.

    Args:
        found: The overrides of each run, by their keys, and its record; at least one.
        outputs: The folder of all runs.
    """
    records_of = [record for _, record in found]
    score = "accuracy, %" if records_of[0]["classes"] else "loss"
    keys, rows = settings(found)
    table = text(keys, rows, score)
    named = " ".join(sorted(f"{record['name']}/{record['id']}" for record in records_of))
    path = outputs / "sweeps" / f"{hashlib.sha256(named.encode()).hexdigest()[:8]}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{table}\n")
    draw(keys, rows, score, path.with_suffix(".png"))
    return f"{table}\n{path} and {path.with_suffix('.png').name}"
