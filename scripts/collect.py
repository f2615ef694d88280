"""Copy the records of complete runs from outputs/ to results/, and write what they say to results/ and the README."""

import argparse
import json
from pathlib import Path
from typing import Any

from hippo.training import records
from hippo.training.curves import draw_curves

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def render(found: list[dict[str, Any]]) -> str:
    """Return the list of records as Markdown; every figure in it comes from a record."""
    lines = [
        "# Results",
        "",
        "One line a run, made from the records under `records/` by `python scripts/collect.py`. Test accuracy is that",
        "of the epoch with the best validation accuracy. The command gives the run again; what it does not name is as",
        "in `configs/`.",
        "",
        "| command | seed | epochs | parameters | test accuracy | last epoch | minutes | machine | record |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in sorted(found, key=lambda record: (record["name"], record["id"])):
        machine, best, last = record["machine"], record["metrics"]["best"], record["metrics"]["last"]
        hardware = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['threads']} thread(s)"
        name = f"{record['name']}/{record['id']}"
        cells = [
            f"`{record['command']}`",
            f"{record['seed']}",
            f"{record['epochs']}",
            f"{record['parameters']:,}",
            f"{100 * best['test']['accuracy']:.2f} %",
            f"{100 * last['test']['accuracy']:.2f} %",
            f"{record['seconds'] / 60:.1f}",
            hardware,
            f"[json](records/{name}.json), [curves](records/{name}.png)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def render_summary(found: list[dict[str, Any]], benchmark: dict[str, Any]) -> str:
    """Return the README's section on results; every figure of ours in it comes from a record."""
    lines = [
        "| run | hidden size | epochs | seed | parameters | test accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for record in sorted(found, key=lambda record: (record["name"], record["id"])):
        cells = [
            f"[{record['name']}](results/records/{record['name']}/{record['id']}.json)",
            f"{record['config']['model']['hidden_size']}",
            f"{record['epochs']}",
            f"{record['seed']}",
            f"{record['parameters']:,}",
            f"{100 * record['metrics']['best']['test']['accuracy']:.2f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    size, parts = benchmark["size"], benchmark["parts"]
    lines += [
        "",
        "These are short runs on two CPU cores. The paper reports 98.3 % for LegS on permuted MNIST (read in a primary",
        "artefact), at hidden size 512 and 50 epochs, which is what `experiment=pmnist_legs` runs when left as it is.",
        "",
        f"One training step at the paper's size (batch {size['batch']}, {size['length']} steps, hidden size "
        f"{size['hidden']}), {benchmark['machine']['threads']} threads of an {benchmark['machine']['cpu']}",
        "(`python scripts/benchmark.py`, [record](results/benchmarks/training_step.json)):",
        "",
        "| | forward | backward | forward + backward, over the matrix products alone | peak memory |",
        "|---|---|---|---|---|",
    ]
    for part, measured in parts.items():
        seconds = measured["seconds"]
        lines.append(
            f"| {part} | {seconds['forward']:.2f} s | {seconds['backward']:.2f} s "
            f"| {measured['ratio_to_products']:.2f} | {max(measured['peak_memory'].values()) / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def with_summary(readme: str, summary: str) -> str:
    """Return the README with the text between its markers replaced."""
    before, begin, rest = readme.partition("<!-- results: written by scripts/collect.py -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    return f"{before}{begin}{summary}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", nargs="*", type=Path, default=[ROOT / "outputs"], help="folders to search")
    args = parser.parse_args()

    for path in sorted(path for folder in args.outputs for path in folder.rglob("record.json")):
        record = records.read(path)
        if record["command"] is None or record["git"]["dirty"] is not False:
            print(f"left out {path}: it was not made by train.py from committed code")
            continue
        target = RESULTS / "records" / record["name"] / f"{record['id']}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        records.write(target, record)
        draw_curves(record, target.with_suffix(".png"))
        print(target)
    found = [records.read(path) for path in sorted((RESULTS / "records").rglob("*.json"))]
    records.write_atomically(RESULTS / "README.md", render(found))
    benchmark = json.loads((RESULTS / "benchmarks" / "training_step.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = with_summary(readme.read_text(encoding="utf-8"), render_summary(found, benchmark))
    records.write_atomically(readme, text)


if __name__ == "__main__":
    main()
