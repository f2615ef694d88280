"""The page of results, results/README.md: every figure on it comes from a record."""

import functools
import html
import re
import statistics
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hippo.tables.collect import by_name
from hippo.tables.describe import WHAT, added, commit, hardware, link, mark, rate, result, what
from hippo.tables.render import entries, explanation, markdown
from hippo.tables.table import Cell, Table

Record = dict[str, Any]


def page(tables: Mapping[str, tuple[Table, list[Cell]]], found: list[Record], benchmarks: Mapping[str, Record]) -> str:
    """Return the page as Markdown.

    Args:
        tables: By name, tables and their cells.
        found: All records.
        benchmarks: By name, the records of `results/benchmarks`; a section whose record is missing is left out.
    """
    lines = _words("begin")
    for name, (table, cells) in tables.items():
        shown = entries(table, cells, by_name(found))
        complete = any(entry.ours for entry in shown.values())
        rows = "\n".join(markdown(table, shown)) if complete else ""
        lines += _words("of_table", name, table.title, rows, explanation(table) if complete else "", table.figure)
    for name, section in SECTIONS.items():
        if name in benchmarks:
            lines += ["", *section(benchmarks[name])]
    lines += ["", *every_model(found, benchmarks.get("models")), "", *every_run(found)]
    return "\n".join(lines) + "\n"


def _words(section: str, *values: Any) -> list[str]:
    """Return the lines of a section."""
    return str(getattr(_template(), section)(*values)).splitlines()


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("hippo.tables"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["hardware"] = hardware  # type: ignore[bad-argument-type]
    return environment.get_template("results.md").module


def grid(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def plain(text: str) -> str:
    """Return what Markdown shows as a text, whatever is in it: neither markup nor the end of a cell."""
    return re.sub(r"[\\`*\[\]|]", lambda match: f"&#{ord(match[0])};", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Return a text as code in a cell of a Markdown table."""
    return f"<code>{plain(text)}</code>" if re.search(r"[`|\s]", text.replace(" ", "")) else f"`{text}`"


def gates(record: Record) -> list[str]:
    """Return the section on the gate of a LegS network at other sampling rates than in training."""
    head = ["gate", *(f"× {rate:g}" for rate in record["rates"])]
    rows = [
        [name, *(f"{statistics.mean(runs):.1f}" for runs in zip(*each, strict=True))]
        for name, each in record["accuracy"].items()
    ]
    return _words("gates", record, grid(head, rows))


def approximation(record: Record) -> list[str]:
    """Return the section on how much of a signal N numbers hold."""
    errors = record["errors"]["N"]
    orders = sorted({order for line in errors.values() for order in line}, key=int)
    rows = [
        [name, *(f"{100 * line[order]:.1f}" if line.get(order) is not None else "–" for order in orders)]
        for name, line in errors.items()
    ]
    head = ["error, % of the power", *(f"N = {order}" for order in orders)]
    return _words("approximation", record, grid(head, rows))


def streaming(record: Record) -> list[str]:
    """Return the section on the speed of `HiPPO.remember`."""
    rows = []
    for row in record["rows"]:
        speeds = [row.get(key) for key in ("wavefront", "two_threads", "sliding", "plain", "dense")]
        rows.append([f"{row['order']}", row["dtype"], f"{row['batch']}"])
        rows[-1] += ["–" if speed is None else f"{speed / 1e6:.2f}" for speed in speeds] + [f"{row['error']:.0e}"]
    head = ["N", "dtype", "series", "LegS", "two threads", "LegT", "plain loop", "dense", "error"]
    return _words("streaming", record, grid(head, rows))


def training_step(record: Record) -> list[str]:
    """Return the section on the time of a training step at the paper's size."""
    rows = []
    for part, measured in record["parts"].items():
        seconds = measured["seconds"]
        times = [f"{seconds['forward']:.2f}", f"{seconds['backward']:.2f}", f"{measured['ratio_to_products']:.2f}"]
        rows.append([part, *times, f"{measured['peak_memory'] / 1e9:.2f} GB"])
    head = ["model", "forward, s", "backward, s", "over the matrix products", "peak memory"]
    return _words("training_step", record, grid(head, rows))


def layers(record: Record) -> list[str]:
    """Return the section on the time of layers of deep networks."""
    rows = []
    for name, found in record["layers"].items():
        seconds, public = found["seconds"], found.get("public", {})
        beside = f"{public['ratio']:.1f} × `{public['package']}`" if "ratio" in public else "–"
        rows.append([f"`{name}`", f"{seconds['forward']:.2f}", f"{seconds['backward']:.2f}"])
        rows[-1] += [f"{found['ratio_to_floor']:.1f}" if "ratio_to_floor" in found else "–", beside]
        steps = (found.get(key) for key in ("steps_a_second", "compiled_steps_a_second"))
        rows[-1] += [f"{found['peak_memory'] / 1e9:.2f} GB", *(f"{n:,.0f}" if n else "–" for n in steps)]
    head = ["layer", "forward, s", "backward, s", "/ floor", "as fast as", "peak memory", "steps a second", "compiled"]
    return _words("layers", record, grid(head, rows))


SECTIONS = {
    "gates": gates,
    "approximation": approximation,
    "streaming": streaming,
    "training_step": training_step,
    "layers": layers,
}


def every_model(found: list[Record], timing: Record | None) -> list[str]:
    """Return the section on all models: accuracy on the digits, and a step's time beside nn.GRU's.

    Of a model's settings the one with the most seeds is shown, of those with as many the best in validation. What was
    not trained as most were, or not at their hidden size, is left out.
    """
    digits = [record for record in found if record["name"].startswith("digits_")]
    if not digits:
        return _words("every_model", "", None, None, None, None)
    frames = [(record["config"]["model"]["hidden_size"], record["config"]["trainer"]) for record in digits]
    hidden, trainer = frame = max(frames, key=frames.count)
    settings: dict[str, dict[str, list[Record]]] = {}
    for record in (record for record, its in zip(digits, frames, strict=True) if its == frame):
        choices = settings.setdefault(" ".join([record["name"].removeprefix("digits_"), *added(record)]), {})
        choices.setdefault(record["hash"], []).append(record)

    def worth(runs: list[Record]) -> tuple[int, float]:
        return len(runs), statistics.mean(run["metrics"]["best"]["validation"]["accuracy"] for run in runs)

    rows = []
    for model, choices in settings.items():
        runs = max(choices.values(), key=worth)
        scores = [100 * run["metrics"]["best"]["test"]["accuracy"] for run in runs]
        cells = [
            code(model),
            f"{runs[0]['parameters']:,}",
            rate(runs[0]),
            f"**{statistics.mean(scores):.1f}**",
            ", ".join(f"[{score:.1f}]({link(run)})" for score, run in zip(scores, runs, strict=True)),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
        ]
        rows.append((-statistics.mean(scores), cells + _timed(timing, model)))
    head = ["`model=`", "parameters", "learning rate", "test %", "seeds", "seconds", "parameters", "step, s", "/ `gru`"]
    tried = ", ".join(model for model, choices in settings.items() if len(choices) > 1)
    table = grid(head, [cells for _, cells in sorted(rows)])
    return _words("every_model", table, hidden, trainer["max_epochs"], tried, timing)


def _timed(timing: Record | None, model: str) -> list[str]:
    step = timing["parts"].get(model.partition(" ")[0]) if timing else None
    if timing is None or step is None:
        return 3 * ["–"]
    seconds, gru = step["seconds"], timing["parts"]["gru"]["seconds"]["step"]
    times = f"{seconds['forward']:.2f} + {seconds['backward']:.2f}"
    return [f"{step['parameters']:,}", times, f"{seconds['step'] / gru:.2f}"]


def every_run(found: list[Record]) -> list[str]:
    """Return the section on all runs."""
    rows = [
        [
            *map(plain, what(record)),
            result(record["metrics"]["best"]["test"]),
            result(record["metrics"]["last"]["test"]),
            f"{record['seconds'] / 60:.1f}",
            plain(hardware(record["machine"])),
            code(record["command"] or "–"),
            f"{code(commit(record))} {mark(record)}".strip(),
            f"[json]({link(record)}), [curves]({link(record).removesuffix('json')}svg)",
        ]
        for record in found
    ]
    head = [*WHAT, "test", "last epoch", "minutes", "machine", "command", "commit", "record"]
    return _words("every_run", grid(head, rows))
