"""Draw measures: their weight over the past, their basis, and one signal as each remembers it beside the best that as
many numbers can do under the weight."""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from reconstruct import noise

from hippo import HiPPO, fidelity
from hippo.measures import ChebT, FouT, JacS, LagT, LegS, LegT, Measure
from hippo.weighted import Scaled


def both_ends(s: np.ndarray) -> np.ndarray:
    return 0.05 + np.exp(-(((1 - s) / 0.2) ** 2)) + np.exp(-((s / 0.2) ** 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--order", type=int, default=33, help="numbers in each memory")
    parser.add_argument("--length", type=int, default=3000, help="samples of the signal")
    parser.add_argument("--window", type=float, default=1000, help="window of the measures that slide, in samples")
    parser.add_argument("--cycles", type=int, default=9, help="highest frequency, in periods per length")
    parser.add_argument("--functions", type=int, default=5, help="basis functions to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/figures/measures.png"))
    args = parser.parse_args()

    rows: list[tuple[str, Measure]] = [
        ("LegS: all of the past, evenly", LegS()),
        ("JacS(3): all of it, the recent part more", JacS(3.0)),
        ("a weight of one's own: both ends of it", Scaled(density=both_ends)),
        ("LegT: a window, evenly", LegT(args.window)),
        ("ChebT: a window, its ends most", ChebT(args.window)),
        ("FouT: a window, as a Fourier series", FouT(args.window)),
        ("LagT, β = 1: ever less of the past", LagT(args.window / 6)),
        ("LagT, β → 0: all of the past alike", LagT(args.window / 60, beta=1e-3)),
    ]
    now = float(args.length)
    signal = noise(args.length, args.cycles, args.seed)
    samples = torch.arange(1, args.length + 1, dtype=torch.float64)
    figure = Figure(figsize=(12, 1.75 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 3, sharex=True, width_ratios=[1, 1, 1.6])
    for (name, measure), (weight, basis, memory) in zip(rows, grid, strict=True):
        oldest = max(measure.window(now)[0], 0.0)
        inside = torch.linspace(oldest, now, 1200, dtype=torch.float64)[1:-1]
        weight.fill_between(inside, measure.weight(inside, now), color="tab:blue", alpha=0.35, lw=0)
        weight.set_title(name, loc="left", fontsize=10)
        if isinstance(measure, ChebT):
            weight.set_ylim(0, 5 / args.window)
        for k, wave in enumerate(measure.basis(args.functions, inside, now).mT):
            basis.plot(inside, wave, lw=1, color="tab:blue", alpha=1 - 0.8 * k / args.functions)
        basis.set_ylim(-3, 3)

        model = HiPPO(measure, args.order)
        coefficients = model(signal.unsqueeze(0))[1].coefficients[0]
        read = model.reconstruct(coefficients, inside, now=now)
        memory.plot(samples, signal, color="0.75", lw=3)
        memory.plot(inside, read, color="tab:red", lw=1.2)
        memory.set_ylim(-3.5, 3.5)
        shares = fidelity.missed(model, signal[None]), fidelity.best(measure, args.order, signal[None])[:, -1]
        missed, best = (100 * math.sqrt(share) for share in shares)
        memory.set_title(f"error under the weight {missed:.1f} %, at best {best:.1f} %", loc="right", fontsize=9)
        for axes in (weight, basis, memory):
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.set_yticks([])
    titles = ("weight over the past", "basis", f"the signal, and what {args.order} numbers hold of it at its end")
    for axes, title in zip(grid[-1], titles, strict=True):
        axes.set_xlabel(title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    main()
