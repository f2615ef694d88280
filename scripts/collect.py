"""Copy the records of complete runs from outputs/ to results/, and write what they say to results/ and the README."""

import argparse
import json
import statistics
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from hippo.files import write_atomically
from hippo.tables.collect import by_name, collect, download, read_all
from hippo.tables.describe import WHAT, hardware, link, what
from hippo.tables.render import write_table
from hippo.tables.report import write_report
from hippo.tables.table import cells, read_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def every_model(found: list[dict[str, Any]], timing: dict[str, Any]) -> list[str]:
    """Return the table of all models, and what it shows: accuracy on the digits, and a step's time beside nn.GRU's.

    Where a model was trained with several settings, the one with the most seeds is shown.
    """
    settings: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in found:
        if record["name"].startswith("digits_"):
            choices = settings.setdefault(record["name"].removeprefix("digits_"), {})
            choices.setdefault(record["hash"], []).append(record)
    shown = {model: max(choices.values(), key=len) for model, choices in settings.items()}
    gru = timing["parts"]["gru"]["seconds"]["step"]
    rows = []
    for model, runs in shown.items():
        scores = [100 * run["metrics"]["best"]["test"]["accuracy"] for run in runs]
        step, mean = timing["parts"][model], statistics.mean(scores)
        cells = [
            f"`{model}`",
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['config']['optimizer']['lr']:g}",
            f"**{mean:.1f}**",
            ", ".join(f"[{score:.1f}]({link(run)})" for score, run in zip(scores, runs, strict=True)),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
            f"{step['parameters']:,}",
            f"{step['seconds']['forward']:.2f} + {step['seconds']['backward']:.2f}",
            f"{step['seconds']['step'] / gru:.2f}",
        ]
        rows.append((-mean, cells))
    head = ["`model=`", "parameters", "learning rate", "test %", "seeds", "seconds", "parameters", "step, s", "/ `gru`"]

    (config, *others), size = [runs[0]["config"] for runs in shown.values()], timing["size"]
    hidden, trainer, permutation = config["model"]["hidden_size"], config["trainer"], config["dataset"]["permutation"]
    assert all(other["trainer"] == trainer and other["model"]["hidden_size"] == hidden for other in others)
    note = (
        f"Left: scikit-learn's digits pixel by pixel (permutation: {permutation.replace('_', ' ')}), hidden size "
        f"{hidden}, {trainer['max_epochs']} epochs, gradients clipped at {trainer['gradient_clip_val']:g} (`python "
        "train.py experiment=digits model=… seed=…`): the mean over the seeds of the test accuracy at the epoch with "
        "the best validation accuracy, each seed's own, and the median of the training times, with another run on the "
        "machine. The learning rate is the experiment's, unless another did better in validation. So short a training "
        "shows that everything learns, and how quickly; not what each model can reach. Right: forward + backward of "
        f"one batch of {size['batch']} at {size['length']} steps and hidden size {size['hidden']} (`python "
        f"scripts/benchmark.py --length {size['length']} --hidden {size['hidden']}`, "
        f"[record](benchmarks/models.json)), on {hardware(timing['machine'])}."
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
                f"{100 * best['test']['accuracy']:.2f} %",
                f"{100 * last['test']['accuracy']:.2f} %",
                f"{record['seconds'] / 60:.1f}",
                hardware(machine),
                f"`{record['command']}`",
                f"`{record['git']['commit'][:10]}`",
                f"[json]({link(record)}), [curves]({link(record).removesuffix('json')}png)",
            ]
        )
    head = [*WHAT, "test accuracy", "last epoch", "minutes", "machine", "command", "commit", "record"]
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
        "Test accuracy is that of the epoch with the best validation accuracy; beside it stands that of the last",
        "epoch. The command, at the commit, gives the run again.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def render_summary(found: list[dict[str, Any]], timing: dict[str, Any], benchmark: dict[str, Any]) -> str:
    """Return the README's section on results; every figure of ours in it comes from a record."""
    here = [line.replace("](", "](results/") for line in every_model(found, timing)]
    rows = [
        [
            f"[{record['name']}](results/{link(record)})",
            *what(record),
            f"{100 * record['metrics']['best']['test']['accuracy']:.2f} %",
        ]
        for record in found
        if not record["name"].startswith(("digits_", "trajectories_"))  # those have tables of their own
    ]
    lines = [*here, "", *table(["run", *WHAT, "test accuracy"], rows)]
    size, parts = benchmark["size"], benchmark["parts"]
    lines += [
        "",
        "Mind the sizes and epochs: the paper reports 98.3 % for LegS on permuted MNIST (read in a primary artefact)",
        "at hidden size 512 and 50 epochs, which is what `experiment=pmnist_legs` runs when it is left as it is.",
        "",
        f"One training step at the paper's size (batch {size['batch']}, {size['length']} steps, hidden size "
        f"{size['hidden']}) on {hardware(benchmark['machine'])}, in seconds",
        "(`python scripts/benchmark.py legs gru`, [record](results/benchmarks/training_step.json)):",
        "",
        "| | forward | backward | forward + backward, over the matrix products alone | peak memory |",
        "|---|---|---|---|---|",
    ]
    for part, measured in parts.items():
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


def read_benchmark(name: str) -> dict[str, Any]:
    """Return a committed result of scripts/benchmark.py."""
    return json.loads((RESULTS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


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
    found, timing, benchmark = read_all(RESULTS), read_benchmark("models"), read_benchmark("training_step")
    write_atomically(RESULTS / "README.md", render(found, timing))
    tables = {}
    for path in sorted((ROOT / "configs" / "table").glob("*.yaml")):
        tables[path.stem] = read_table(path), list(cells(read_table(path), ROOT / "configs"))
        write_table(path.stem, *tables[path.stem], by_name(found), RESULTS)
    write_report(tables, by_name(found), RESULTS)
    readme = ROOT / "README.md"
    text = with_summary(readme.read_text(encoding="utf-8"), render_summary(found, timing, benchmark))
    write_atomically(readme, text)


if __name__ == "__main__":
    main()
