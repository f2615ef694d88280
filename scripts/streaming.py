"""Measure how many samples a second memories read of a known signal, and how exactly.

    python scripts/streaming.py                     # print a table
    python scripts/streaming.py --out results       # and write benchmarks/streaming.json, figures/scaling.png there

Rates are in millions of samples a second, the best of several rounds. `HiPPO.remember` reads LegS many samples at a
time, by a wavefront, and LegT, with a window of 1,000 samples, by blocks. Beside them stand two ways of one step a
sample: the compiled O(N) step of LegS ("plain"), and the product with one dense matrix ("dense"), which any memory has.
The error is the largest difference of any coefficient of LegS from dense steps in float64, after 1,000 steps, divided
by the largest coefficient. Last comes `HiPPO.step`, for samples that arrive one at a time, on one core.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from hippo import HiPPO, kernels
from hippo.discretize import gbt
from hippo.kernels import legs
from hippo.measures import LegS, LegT
from hippo.training import host, records

ORDERS, BATCHES, DTYPES = (64, 256, 512), (1, 64), (torch.float32, torch.float64)
LENGTHS = (10**5, 10**6, 10**7) if kernels.compiled() else (10**3, 10**4)  # samples: seconds each
Step = Callable[[Tensor], Any]


def wavefront(order: int) -> Step:
    return HiPPO("legs", order).remember


def sliding(order: int) -> Step:
    return HiPPO(LegT(1000.0), order).remember


def plain(order: int) -> Step:
    def run(f: Tensor) -> None:
        step = torch.arange(1, f.shape[1] + 1, dtype=torch.float64).reciprocal().unsqueeze(1)
        legs.sequence(f.new_zeros(len(f), order), f, step, 0.5, every=False)

    return run


def dense(order: int) -> Step:
    A, B = gbt(*LegS().dynamics(order), 1 / 1000, 0.5)

    def run(f: Tensor) -> None:
        A_here, B_here, c = A.to(f), B.to(f), f.new_zeros(len(f), order)
        for sample in f.unbind(1):
            c = torch.addmm(torch.outer(sample, B_here), c, A_here.mT)

    return run


def seconds(run: Step, batch: int, length: int, dtype: torch.dtype) -> float:
    """Return the seconds that a memory needs for noise (B, L)."""
    f = torch.randn(batch, length, dtype=dtype)
    begin = time.perf_counter()
    run(f)
    return time.perf_counter() - begin


def rate(run: Step, batch: int, dtype: torch.dtype, least: float = 0.02) -> float:
    """Return samples a second, measured on a signal long enough to need `least` seconds."""
    length = 1024  # memories that slide read in blocks from N samples on
    while True:
        seconds(run, batch, length, dtype)  # compiles, and fills the caches of transitions
        if (duration := seconds(run, batch, length, dtype)) >= least:
            return batch * length / duration
        length *= 4


def error(order: int, dtype: torch.dtype) -> float:
    """Return the largest error of LegS's coefficients after 1,000 steps, relative to the largest coefficient."""
    f = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A, B = LegS().dynamics(order)
    c, unit = torch.nn.functional.pad(f[:1], (0, order - 1)), torch.eye(order, dtype=torch.float64)
    for t in range(1, len(f)):
        right = (unit + A / (2 * t)) @ c + B * f[t] / t
        c = torch.linalg.solve_triangular(unit - A / (2 * t), right.unsqueeze(-1), upper=False)[:, 0]
    actual = HiPPO("legs", order).remember(f.to(dtype).unsqueeze(0)).coefficients[0]
    return ((actual - c).abs().max() / c.abs().max()).item()


def scaling(rounds: int, orders: Sequence[int], lengths: Sequence[int]) -> dict[str, Any]:
    """Return LegS's seconds against N, at the shortest length, and against L, at N = 256, with fitted exponents."""

    def curve(sizes: Sequence[int], cases: Iterable[tuple[int, int]]) -> dict[str, Any]:
        durations = [
            min(seconds(wavefront(order), 1, length, torch.float32) for _ in range(rounds)) for order, length in cases
        ]
        slope = np.polyfit(np.log(sizes), np.log(durations), 1)[0]
        return {"sizes": list(sizes), "seconds": durations, "exponent": float(slope)}

    return {
        "N": curve(orders, ((order, lengths[0]) for order in orders)),
        "L": curve(lengths, ((256, length) for length in lengths)),
    }


def step_by_step(memory: HiPPO, count: int) -> float:
    """Return the seconds that `HiPPO.step` takes for one sample."""
    samples = torch.randn(count, 1).unbind()
    state = memory.step(samples[1], state=memory.step(samples[0]))  # compiles, and makes what is made once
    begin = time.perf_counter()
    for sample in samples:
        state = memory.step(sample, state=state)
    return (time.perf_counter() - begin) / count


def draw(curves: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        fixed = f"{curves['L']['sizes'][0]:,} samples" if name == "N" else "N = 256"
        axes.loglog(curve["sizes"], curve["seconds"], "o-", color="tab:red", label=f"exponent {curve['exponent']:.2f}")
        axes.loglog(
            curve["sizes"],
            [curve["seconds"][-1] * size / curve["sizes"][-1] for size in curve["sizes"]],
            color="0.7",
            ls="--",
            label="linear",
        )
        axes.set_xlabel({"N": "coefficients N", "L": "samples L"}[name])
        axes.set_ylabel("seconds")
        axes.set_title(fixed, loc="left", fontsize=10)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def measure(rounds: int, orders: Sequence[int], lengths: Sequence[int]) -> dict[str, Any]:
    """Return rates and errors by order, dtype and batch, and how the time grows with N and L."""
    cases = [(order, dtype, batch) for order in orders for dtype in DTYPES for batch in BATCHES]
    threads = torch.get_num_threads()
    rows = [
        {"order": order, "dtype": str(dtype)[6:], "batch": batch, "error": error(order, dtype)}
        for order, dtype, batch in cases
    ]
    kinds: dict[str, tuple[Callable[[int], Step], int]] = {
        "wavefront": (wavefront, 1),
        "sliding": (sliding, 1),
        "dense": (dense, 1),
    }
    if kernels.compiled():
        kinds["plain"] = plain, 1
    if threads > 1:
        kinds["two_threads"] = wavefront, 2
    for _ in tqdm(
        range(rounds), desc="rates", unit="round"
    ):  # the machine's speed changes: let every kind meet every speed
        for row, (order, dtype, batch) in zip(rows, cases, strict=True):
            for kind, (make, count) in kinds.items():
                torch.set_num_threads(count)
                row[kind] = max(row.get(kind, 0.0), rate(make(order), batch, dtype))
    torch.set_num_threads(1)
    curves = scaling(rounds, [8 * order for order in orders], lengths)
    memories = {"LegS": HiPPO("legs", 64), "LegT": HiPPO(LegT(1000.0), 64)}
    step = {
        name: min(step_by_step(memory, min(max(lengths), 10**5)) for _ in range(rounds))
        for name, memory in memories.items()
    }
    result = {"rounds": rounds, "compiled": kernels.compiled(), "rows": rows, "scaling": curves, "step": step}
    result |= {"peak_memory": records.peak_memory()} | records.provenance()
    torch.set_num_threads(threads)
    return result


def show(result: dict[str, Any]) -> None:
    print("millions of samples a second, summed over the batch")
    heads = ("LegS", "2 threads", "LegT", "plain", "dense", "error")
    print(f"{'N':>5} {'dtype':8} {'batch':>5}" + "".join(f"{head:>10}" for head in heads))
    for row in result["rows"]:
        rates = (row.get(kind, math.nan) / 1e6 for kind in ("wavefront", "two_threads", "sliding", "plain", "dense"))
        shown = "".join(f"{rate:10.2f}" for rate in rates)
        print(f"{row['order']:5} {row['dtype']:8} {row['batch']:5}{shown}{row['error']:10.0e}")
    for name, curve in result["scaling"].items():
        print(f"time grows as {name}^{curve['exponent']:.2f}")
    steps = (f"{name} {1e6 * seconds:.1f} µs" for name, seconds in result["step"].items())
    print("one sample at a time, N = 64: " + ", ".join(steps))


def main() -> None:
    host.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each rate, of which the best counts (5)")
    parser.add_argument("--orders", type=int, nargs="+", default=ORDERS, metavar="N", help="coefficients (64 256 512)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, metavar="L", help="samples, for how the time grows with them"
    )
    parser.add_argument("--out", type=Path, help="folder for benchmarks/streaming.json and figures/scaling.png")
    args = parser.parse_args()
    if min(len(set(args.orders)), len(set(args.lengths))) < 2:
        parser.error("growth needs two orders and two lengths at least")
    result = measure(args.rounds, sorted(args.orders), sorted(args.lengths))
    show(result)
    if args.out:
        path = args.out / "benchmarks" / "streaming.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, result)
        draw(result["scaling"], args.out / "figures" / "scaling.png")


if __name__ == "__main__":
    main()
