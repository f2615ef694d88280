"""Measure how well N coefficients approximate a function: the error against N, against the number of samples, and by
discretization.

    python scripts/approximate.py                  # print the errors
    python scripts/approximate.py --out results    # and write benchmarks/approximation.json, figures/approximation.png

Memories read white noise of 100 cycles and reconstruct it at 1,000 times, as in `experiment=function_approximation`. An
error is the mean squared error divided by the functions' mean square, so a reconstruction of 0 has the error 1.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from hippo import HiPPO, kernels
from hippo.data import white_noise
from hippo.measures import LegS, LegT, Measure
from hippo.training import host, records

ORDERS = (16, 32, 64, 128, 192, 256, 320, 384, 512, 1024)
LENGTHS = (10**3, 3 * 10**3, 10**4, 3 * 10**4, 10**5, 10**6, 10**7)
POINTS = 1000
BEST = "best polynomial"
LONGEST = {"euler": 10**6, "backward_euler": 10**6, "zoh": 3000}  # samples: minutes each


def error(memory: HiPPO, signal: Tensor) -> float:
    """Return the relative error of a memory's reconstruction of signals (B, L)."""
    coefficients = memory.remember(signal).coefficients.double()
    length = memory.measure.length if isinstance(memory.measure, LegT) else 1.0
    at = sampled(signal.shape[1])
    times = length * at.double() / at[-1]  # a number times integers would be of the default dtype
    return relative(memory.reconstruct(coefficients, times, now=length), signal[:, at])


def best_error(order: int, signal: Tensor, cycles: int) -> float:
    """Return the relative error of the polynomials with N coefficients that minimize it over the whole interval.

    Their coefficients are Gauss–Legendre quadratures of the functions, which their Fourier coefficients give exactly at
    any time.
    """
    length = signal.shape[1]
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(2 * order + 8 * cycles))
    times, at = (nodes + 1) / 2, sampled(length)
    waves = torch.exp(2j * math.pi * torch.outer(torch.arange(1, cycles + 1), times * (length - 1) / length))
    values = (torch.fft.rfft(signal.double())[:, 1 : cycles + 1] @ waves).real * 2 / length
    coefficients = (values * weights / 2) @ LegS().basis(order, times, 1.0)
    return relative(coefficients @ LegS().basis(order, at.double() / at[-1], 1.0).mT, signal[:, at])


def sampled(length: int) -> Tensor:
    """Return the indices of the samples at which reconstructions are compared."""
    return torch.linspace(0, length - 1, POINTS, dtype=torch.float64).round().long()


def relative(reconstruction: Tensor, values: Tensor) -> float:
    """Return the mean squared error over the mean square of the values."""
    return ((reconstruction - values).square().mean() / values.double().square().mean()).item()


def cases(orders: list[int], lengths: list[int]) -> Iterator[tuple[str, str, float, int, int, torch.dtype]]:
    """Yield the panel, line and position of each error, and N, L and dtype of the memory that makes it."""
    for order in orders:
        for line in ("LegS", "LegT", BEST):
            yield "N", line, order, order, 10**5, torch.float64
    for length in lengths:
        for line, longest in LONGEST.items():
            if length <= longest:
                yield "L", line, length, 256, length, torch.float64
        for dtype in (torch.float64, torch.float32):
            if length <= 10**5 or kernels.compiled():
                yield "L", f"bilinear, {str(dtype)[6:]}", length, 256, length, dtype


def measure(orders: list[int], lengths: list[int], functions: int, cycles: int) -> dict[str, Any]:
    """Return the errors by panel, line and position."""
    errors: dict[str, dict[str, dict[str, float]]] = {"N": {}, "L": {}}
    every = list(cases(orders, lengths))
    for panel, line, position, order, length, dtype in tqdm(every, desc="errors", unit="memory"):
        signal = white_noise(functions, length, cycles, seed=2).to(dtype)
        if line == BEST:
            value = best_error(order, signal, cycles)
        else:
            measure: Measure = LegT(float(length)) if line == "LegT" else LegS()
            discretization = "bilinear" if panel == "N" else line.partition(",")[0]
            value = error(HiPPO(measure, order, discretization), signal)
        errors[panel].setdefault(line, {})[f"{position}"] = value
    size = {"functions": functions, "cycles": cycles, "points": POINTS}
    return {"size": size, "errors": errors} | records.provenance()


def draw(errors: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {"N": "100,000 samples", "L": "LegS, N = 256, by discretization"}
    for axes, (panel, lines) in zip(figure.subplots(1, 2), errors.items(), strict=True):
        for line, values in lines.items():
            style = {"color": "0.6", "ls": "--"} if line == BEST else {"marker": "o", "ms": 4}
            heights = [y if y < 10 else math.nan for y in values.values()]  # a gap where an unstable rule diverges
            axes.loglog([int(x) for x in values], heights, label=line.replace("_", " "), **style)
        axes.set_xlabel({"N": "coefficients N", "L": "samples of the same functions L"}[panel])
        axes.set_title(titles[panel], loc="left", fontsize=10)
        axes.axhline(1, color="0.8", lw=1)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("relative mean squared error")
    figure.axes[0].set_ylim(1e-8, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    host.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, nargs="+", default=ORDERS, metavar="N", help="coefficients (16 … 1024)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="L", help="samples (10^3 … 10^7)")
    parser.add_argument("--functions", type=int, default=4, help="functions that each error is averaged over (4)")
    parser.add_argument("--cycles", type=int, default=100, help="periods of the functions' highest frequency (100)")
    parser.add_argument("--out", type=Path, help="folder for benchmarks/ and figures/")
    args = parser.parse_args()
    if not 0 < args.cycles < min(args.lengths) / 2:
        parser.error(
            f"{min(args.lengths)} samples are too few for {args.cycles} cycles: take more than two for each, by "
            f"--lengths {2 * args.cycles + 1} or more, or fewer --cycles"
        )
    result = measure(sorted(args.orders), sorted(args.lengths), args.functions, args.cycles)
    for panel, lines in result["errors"].items():
        for line, values in lines.items():
            print(f"{line:18} {panel}: " + "  ".join(f"{int(x):,} {y:.2g}" for x, y in values.items()))
    if args.out:
        path = args.out / "benchmarks" / "approximation.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, result)
        draw(result["errors"], args.out / "figures" / "approximation.png")


if __name__ == "__main__":
    main()
