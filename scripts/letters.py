"""Draw a letter as a model gets it in each column of a table: sampled as in training, and as in the test."""

import argparse
from pathlib import Path

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure

from hippo.data import CharacterTrajectories, Sampling
from hippo.data.character_trajectories import LETTERS, RATE, read
from hippo.data.sampling import sample
from hippo.tables.table import cells, read_table

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--table", default="trajectories", help="of configs/table")
    parser.add_argument("--letter", default="h", choices=list(LETTERS), metavar="LETTER", help=f"of {LETTERS}")
    parser.add_argument("--nth", type=int, default=0, help="which of the letter's series")
    parser.add_argument("--out", type=Path, default=Path("results/figures/letters.png"))
    args = parser.parse_args()

    table = read_table(ROOT / "configs" / "table" / f"{args.table}.yaml")
    first_row = next(iter(table.rows))
    first = [cell for cell in cells(table, ROOT / "configs") if cell.row == first_row and cell.runs]
    configs = {cell.column: cell.runs[0].config for cell in first}
    if any("CharacterTrajectories" not in config["dataset"]["_target_"] for config in configs.values()):
        parser.error(f"the table {args.table} has no letters in it; trajectories has")
    series, labels, _ = read(Path(next(iter(configs.values()))["paths"]["data"]))
    chosen = [one for one, label in zip(series, labels, strict=True) if LETTERS[int(label) - 1] == args.letter]
    pen = torch.from_numpy(chosen[args.nth % len(chosen)]).unsqueeze(0)

    figure = Figure(figsize=(2.4 * len(configs), 6.5), layout="constrained")
    grid = figure.subplots(4, len(configs), height_ratios=[2, 1.1, 2, 1.1], sharey="row", squeeze=False)
    for axes, (name, config) in zip(grid.T, configs.items(), strict=True):
        dataset: CharacterTrajectories = instantiate(config["dataset"] | {"timestamps": "separate"})
        samplings = dataset.samplings()
        column = table.columns[name]
        for k, (when, sampling) in enumerate(
            (("trained on", samplings[""]), ("tested on", samplings[column.shift or ""]))
        ):
            draw(pen, sampling, axes[2 * k], axes[2 * k + 1])
            axes[2 * k].set_title(f"{column.label}\n{when}" if k == 0 else when, fontsize=9)
    grid[-1][0].set_xlabel("its clock, s")
    grid[1][0].legend(fontsize=7, frameon=False, loc="upper right")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=90)
    print(args.out)


def draw(pen: torch.Tensor, sampling: Sampling, path, channels) -> None:
    """Draw the pen's path, its velocity integrated on the model's clock, and the channels against that clock."""
    x, timestamps, _ = sample(pen, torch.tensor([pen.shape[1]]), sampling, seed=0)
    clock = timestamps[0] / RATE
    way = torch.cumulative_trapezoid(x[0, :, :2], clock.unsqueeze(-1), dim=0)
    path.plot(way[:, 0], way[:, 1], ".-", color="tab:blue", ms=3, lw=0.7)
    double = 2 * torch.cumsum(pen[0, :, :2], dim=0) / RATE  # the letter on the slowest of the clocks
    for axis, low, high in zip("xy", double.amin(0), double.amax(0), strict=True):
        path.set(**{f"{axis}lim": (low - 0.1, high + 0.1)})
    path.set_aspect("equal")
    path.axis("off")
    for values, name in zip(x[0].mT, ("velocity, x", "velocity, y", "force"), strict=True):
        channels.plot(clock, values, ".", ms=1.5, label=name)
    channels.set_xlim(0, 2 * (pen.shape[1] - 1) / RATE)
    channels.tick_params(labelsize=7)


if __name__ == "__main__":
    main()
