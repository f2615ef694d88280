"""`hippo evaluate`: test a trained model under other settings of its dataset, or on a file of sequences.

hippo evaluate outputs/digits_legs/4168fcc3-seed0                                # what is recorded
hippo evaluate outputs/digits_legs/4168fcc3-seed0 dataset.permutation=none
hippo evaluate outputs/trajectories_legs/HASH-seed0 dataset.sampling.rate=0.5
hippo evaluate outputs/NAME/ID new.npz                                           # or .csv, .ts
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hippo import project
from hippo.training.elsewhere import changed, results
from hippo.training.trained import load


def table(rows: list[tuple[str, int, dict[str, float]]]) -> str:
    """Return what a model comes to, a line for each thing that it is tested on."""
    metrics = list(rows[0][2])
    lines = [["", "sequences", *metrics]]
    lines += [[name, f"{count:,}", *(f"{values[metric]:.4f}" for metric in metrics)] for name, count, values in rows]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in lines
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="hippo evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run, or its record")
    parser.add_argument("what", nargs="*", help="files of sequences, or dataset.KEY=VALUE and dataset=NAME")
    parser.add_argument("--reading", default="best", help="which weights: best, last, best@SHIFT (best)")
    parser.add_argument("--data", type=Path, help="the root of all datasets (HIPPO_DATA, or data)")
    args = parser.parse_intermixed_args(arguments)
    files = [word for word in args.what if "=" not in word]
    overrides = [word for word in args.what if "=" in word]
    model, rows = load(args.run, args.reading, data=args.data, configs=project.configs()), []
    if overrides or not files:
        rows += results(model, changed(model, overrides, project.configs()))
    for file in files:
        split = model.read(file)
        rows.append((file, len(split), model.metrics(split)))
    print(table(rows))
