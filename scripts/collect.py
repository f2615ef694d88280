"""Copy the records of complete runs from outputs/ to results/, and write what they say to results/ and the README."""

import argparse
import json
import statistics
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hippo.files import write_atomically
from hippo.tables.collect import by_name, collect, download, read_all
from hippo.tables.describe import WHAT, added, hardware, link, result, what
from hippo.tables.render import MEANING, comparison, entries, markdown, quantities, write_table
from hippo.tables.report import write_report
from hippo.tables.table import Cell, Table, every_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def every_model(found: list[dict[str, Any]], timing: dict[str, Any]) -> list[str]:
    """Return the table of all models, and what it shows: accuracy on the digits, and a step's time beside nn.GRU's.

    Of a model's settings the one with the most seeds is shown, of those with as many the best in validation. What was
    not trained as most were, or not at their hidden size, is left out.
    """
    digits = [record for record in found if record["name"].startswith("digits_")]
    frames = [(record["config"]["model"]["hidden_size"], record["config"]["trainer"]) for record in digits]
    hidden, trainer = frame = max(frames, key=frames.count)
    settings: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in (record for record, its in zip(digits, frames, strict=True) if its == frame):
        choices = settings.setdefault(" ".join([record["name"].removeprefix("digits_"), *added(record)]), {})
        choices.setdefault(record["hash"], []).append(record)

    def worth(runs: list[dict[str, Any]]) -> tuple[int, float]:
        return len(runs), statistics.mean(run["metrics"]["best"]["validation"]["accuracy"] for run in runs)

    shown = {model: max(choices.values(), key=worth) for model, choices in settings.items()}
    tried = [model for model, choices in settings.items() if len(choices) > 1]
    gru = timing["parts"]["gru"]["seconds"]["step"]
    rows = []
    for model, runs in shown.items():
        scores = [100 * run["metrics"]["best"]["test"]["accuracy"] for run in runs]
        mean, step = statistics.mean(scores), timing["parts"].get(model.partition(" ")[0])
        cells = [
            f"`{model}`",
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['config']['optimizer']['lr']:g}",
            f"**{mean:.1f}**",
            ", ".join(f"[{score:.1f}]({link(run)})" for score, run in zip(scores, runs, strict=True)),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
        ]
        if step:
            cells.append(f"{step['parameters']:,}")
            cells.append(f"{step['seconds']['forward']:.2f} + {step['seconds']['backward']:.2f}")
            cells.append(f"{step['seconds']['step'] / gru:.2f}")
        else:
            cells += 3 * ["–"]
        rows.append((-mean, cells))
    head = ["`model=`", "parameters", "learning rate", "test %", "seeds", "seconds", "parameters", "step, s", "/ `gru`"]

    size, permutation = timing["size"], digits[0]["config"]["dataset"]["permutation"]
    note = (
        f"Left: scikit-learn's digits pixel by pixel (permutation: {permutation.replace('_', ' ')}), hidden size "
        f"{hidden}, {trainer['max_epochs']} epochs, gradients clipped at {trainer['gradient_clip_val']:g} (`python "
        "train.py experiment=digits model=… seed=…`): the mean over the seeds of the test accuracy at the epoch with "
        "the best validation accuracy, each seed's own, and the median of the training times, with another run on the "
        f"machine. More than one learning rate was tried for {', '.join(tried) or 'none'}; of those with most seeds "
        "the best in validation is shown. What needs timestamps had dataset.timestamps=true. So short a training shows "
        "that everything learns and how quickly, not what each model can reach. Right: forward + backward of "
        f"one batch of {size['batch']} at {size['length']} steps and hidden size {size['hidden']} (`python "
        f"scripts/benchmark.py --length {size['length']} --hidden {size['hidden']} --out "
        f"results/benchmarks/models.json`, [record](benchmarks/models.json)), on {hardware(timing['machine'])}."
    )
    return [*table(head, [cells for _, cells in sorted(rows)]), "", *textwrap.wrap(note, 118, break_on_hyphens=False)]


def render(found: list[dict[str, Any]], timing: dict[str, Any]) -> str:
    """Return the page of results as Markdown; every figure in it comes from a record."""
    rows = []
    for record in found:
        machine, best, last = record["machine"], record["metrics"]["best"], record["metrics"]["last"]
        rows.append(
            [
                *what(record),
                result(best["test"]),
                result(last["test"]),
                f"{record['seconds'] / 60:.1f}",
                hardware(machine),
                f"`{record['command']}`",
                f"`{record['git']['commit'][:10]}`",
                f"[json]({link(record)}), [curves]({link(record).removesuffix('json')}png)",
            ]
        )
    head = [*WHAT, "test", "last epoch", "minutes", "machine", "command", "commit", "record"]
    lines = [
        "# Results",
        "",
        "Made from the records under `records/` and `benchmarks/` by `python scripts/collect.py`.",
        "",
        "## Every model",
        "",
        *every_model(found, timing),
        "",
        "## Every run",
        "",
        "In test, the accuracy of the epoch that is best in validation, or the mean squared error where numbers are",
        "to be known; beside it, that of the last epoch. The command, at the commit and with",
        "as many threads, gives the run again.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def render_summary(
    tables: Mapping[str, tuple[Table, list[Cell]]],
    found: list[dict[str, Any]],
    benchmarks: Mapping[str, dict[str, Any]],
) -> str:
    """Return the README's section on results; every figure of ours in it comes from a record.

    Args:
        tables: By name, tables and their cells.
        found: All records.
        benchmarks: By name, those of `results/benchmarks`.
    """
    names = ("approximation", "gates", "streaming", "training_step")
    approximation, gates, streaming, step = (benchmarks[name] for name in names)
    lines = []
    for name, (spec, filled) in tables.items():
        shown = entries(spec, filled, by_name(found), "best")
        if not any(entry.ours for entry in shown.values()):
            lines += [
                f"**[{spec.title}](results/tables/{name}.md)**, with what the paper reports: no run of it yet.",
                "",
            ]
            continue
        lines += [f"**[{spec.title}](results/tables/{name}.md)**: {quantities(spec)}, the number of seeds, and "]
        lines[-1] += f"what the paper reports ({spec.source}), with {comparison(spec)}. {MEANING}"
        if any(entry.ours and entry.ours.interval for entry in shown.values()):
            lines[-1] += " In brackets, from three seeds on: the 95 % interval of the mean (Student's t)."
        lines += ["", *markdown(spec, shown), ""]
        lines += [f"![accuracy against shift](results/tables/{name}.png)", ""] if spec.figure else []
    means = [[statistics.mean(runs) for runs in zip(*each, strict=True)] for each in gates["accuracy"].values()]
    both = [
        f"{by_time:.1f} instead of {by_sample:.1f} % at × {rate:g}"
        for rate, by_sample, by_time in zip(gates["rates"], *means, strict=True)
        if rate in (0.25, 0.5, 2, 4)
    ]
    folders = " ".join(f"outputs/{run['name']}/{run['id']}" for run in gates["runs"])
    lines += [
        "**What of a LegS network depends on the sampling rate.** Its gate replaces a share of the hidden state with "
        "each sample, so at twice the rate it replaces more in the same time. Told the rate, so that it replaces the "
        f"same in the same time, the same {len(gates['runs'])} networks, not trained anew, have {', '.join(both)} the "
        f"rate of their training, where they have {means[0][gates['rates'].index(1)]:.1f} %. Above it the gate costs "
        "nearly all of what is lost, below it a part (`python "
        f"scripts/gates.py {folders} --out results`, [record](results/benchmarks/gates.json)):",
        "",
        "![accuracy against sampling rate, with either gate](results/figures/gates.png)",
        "",
    ]
    errors = approximation["errors"]["N"]
    order = "256" if "256" in errors["LegS"] else max(errors["LegS"], key=int)
    legs, best = (errors[line][order] for line in ("LegS", "best polynomial"))
    lines += [
        f"**What N numbers hold.** Of white noise of {approximation['size']['cycles']} cycles {order} coefficients of "
        f"LegS miss {100 * legs:.1f} % of the power, and the best polynomial of that order, made with all samples in "
        f"view, {100 * best:.1f} % (`python scripts/approximate.py --out results`, "
        "[record](results/benchmarks/approximation.json)):",
        "",
        "![error against N, and against the number of samples](results/figures/approximation.png)",
        "",
    ]
    cells = [
        [
            f"{row['order']}",
            row["dtype"],
            f"{row['batch']}",
            f"{row['wavefront'] / 1e6:.1f}",
            f"{row['two_threads'] / 1e6:.1f}" if "two_threads" in row else "–",
            f"{row['sliding'] / 1e6:.1f}",
            f"{row['plain'] / 1e6:.2f}" if "plain" in row else "–",
            f"{row['dense'] / 1e6:.2f}",
            f"{row['error']:.0e}",
        ]
        for row in streaming["rows"]
    ]
    by_length = streaming["scaling"]["L"]
    lines += [
        f'**Streaming.** `HiPPO("legs", N).remember(signal)` in millions of samples a second, all series together, '
        f"on one core of {streaming['machine']['cpu']}, and in two threads, which share series; the "
        "same of LegT, whose window of 1,000 samples slides; the plain O(N) loop of LegS, compiled; and a product with "
        "one dense matrix a step. The error is the largest of LegS's coefficients after 1,000 steps, over the largest "
        "coefficient. "
        f"{by_length['sizes'][-1]:,} samples at N = 256 took {by_length['seconds'][-1]:.2f} s "
        f"(`python scripts/streaming.py --rounds {streaming['rounds']} --out results`, "
        "[record](results/benchmarks/streaming.json), "
        "[growth](results/figures/scaling.png)):",
        "",
        *table(["N", "dtype", "series", "LegS", "two threads", "LegT", "plain loop", "dense", "largest error"], cells),
        "",
    ]
    size = step["size"]
    lines += [
        f"**A training step** at the paper's size (batch {size['batch']}, {size['length']} steps, hidden size "
        f"{size['hidden']}) on {hardware(step['machine'])}, in seconds "
        f"(`python scripts/benchmark.py {' '.join(part for part in step['parts'] if part != 'products')} --rounds "
        f"{step['rounds']} --out results/benchmarks/training_step.json`, "
        "[record](results/benchmarks/training_step.json)):",
        "",
        "| | forward | backward | forward + backward, over the matrix products timed beside it | peak memory |",
        "|---|---|---|---|---|",
    ]
    for part, measured in step["parts"].items():
        seconds = measured["seconds"]
        lines.append(
            f"| {part} | {seconds['forward']:.2f} | {seconds['backward']:.2f} "
            f"| {measured['ratio_to_products']:.2f} | {measured['peak_memory'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def with_summary(readme: str, summary: str) -> str:
    """Return the README with the text between its markers replaced."""
    before, begin, rest = readme.partition("<!-- results: written by scripts/collect.py -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    return f"{before}{begin}{summary}\n{end}{after}"


def every_benchmark() -> dict[str, dict[str, Any]]:
    """Return the committed figures of what scripts measure, by their names."""
    paths = sorted((RESULTS / "benchmarks").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", nargs="*", type=Path, default=[ROOT / "outputs"], help="folders to search")
    parser.add_argument(
        "--wandb", nargs="+", default=[], metavar="ENTITY/PROJECT", help="W&B projects to search as well"
    )
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        for project in args.wandb:
            download(project, Path(folder))
        for line in collect([*args.outputs, Path(folder)], RESULTS):
            print(line)
    found, benchmarks = read_all(RESULTS), every_benchmark()
    write_atomically(RESULTS / "README.md", render(found, benchmarks["models"]))
    tables = every_table(ROOT / "configs")
    for name, (spec, filled) in tables.items():
        write_table(name, spec, filled, by_name(found), RESULTS)
    write_report(tables, by_name(found), RESULTS)
    readme = ROOT / "README.md"
    summary = render_summary(tables, found, benchmarks)
    write_atomically(readme, with_summary(readme.read_text(encoding="utf-8"), summary))


if __name__ == "__main__":
    main()
