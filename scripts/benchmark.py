"""Time one training step of each model, beside nn.GRU and beside the matrix products a HiPPO-RNN cannot do without.

    python scripts/benchmark.py                                  # every model
    python scripts/benchmark.py legs gru                         # these, at permuted MNIST's size
    python scripts/benchmark.py --length 182 --hidden 256        # at Character Trajectories' size

Each part runs in a process of its own, so that peak memory is its own, `--rounds` times in turn; medians are reported.
The products are timed beside every part, step by step, and the ratio is the median of those within a pair, for the
machine may be slower the next second.
"""

import argparse
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hippo.training import host, records

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
MODELS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
FLOOR = "products"
SECONDS = ("forward", "backward", "optimizer")
REPEATS = 5
Step = Callable[[], tuple[float, float, float]]  # seconds of its parts


def network(name: str, batch: int, length: int, hidden: int) -> tuple[Step, int]:
    """Return a training step of a model as configured, at a hidden size, and how many parameters it has."""
    torch.manual_seed(0)
    config: Any = OmegaConf.create({"window": length, "model": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    config.model.hidden_size = hidden
    network = instantiate(OmegaConf.to_container(config, resolve=True)["model"], input_size=1)  # type: ignore[index]
    model = torch.nn.ModuleDict({"body": network, "head": torch.nn.Linear(hidden, 10)}).to(device())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.rand(batch, length, 1, device=device()), torch.randint(10, (batch,), device=device())
    timestamps = torch.arange(float(length), device=device()).expand(batch, -1) if network.needs_timestamps else None

    def step() -> tuple[float, float, float]:
        optimizer.zero_grad()
        times = [now()]
        loss = torch.nn.functional.cross_entropy(model["head"](model["body"](x, timestamps)), y)
        times.append(now())
        loss.backward()
        times.append(now())
        optimizer.step()
        times.append(now())
        return times[1] - times[0], times[2] - times[1], times[3] - times[2]

    return step, sum(p.numel() for p in model.parameters())


def products(batch: int, length: int, hidden: int) -> Step:
    """Return the matrix products that a HiPPO-RNN cannot do without: the floor of its training step."""
    weight = torch.randn(2 * hidden, hidden + 1, device=device())
    read, grad = torch.randn(batch, hidden + 1, device=device()), torch.randn(batch, 2 * hidden, device=device())
    reads, grads = read.repeat(length, 1), grad.repeat(length, 1)

    def step() -> tuple[float, float, float]:
        times = [now()]
        for _ in range(length):
            read @ weight.mT
        times.append(now())
        for _ in range(length):
            grad @ weight
        grads.mT @ reads
        times.append(now())
        return times[1] - times[0], times[2] - times[1], 0.0

    return step


@functools.cache
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """Return the time at which all that was asked for is done, in seconds."""
    if device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(part: str, size: dict[str, int]) -> dict[str, Any]:
    """Return the seconds of one part in turn with those of the products, and the most memory that its process held."""
    host.prepare()
    step, parameters = (products(**size), 0) if part == FLOOR else network(part, **size)
    for _ in range(3):  # memory is new in the first two, and on a GPU graphs are captured
        step()
    memory, floor = records.peak_memory(), products(**size)
    floor()
    pairs = [(step(), floor()) for _ in range(REPEATS)]
    seconds = dict(zip(SECONDS, map(statistics.median, zip(*(own for own, _ in pairs), strict=True)), strict=True))
    ratio = statistics.median(sum(own[:2]) / sum(other) for own, other in pairs)
    return seconds | {"parameters": parameters, "ratio": ratio, "peak_memory": memory}


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of a part's runs, and the largest memory that any of them held."""
    median = {key: statistics.median(run[key] for run in runs) for key in SECONDS}
    return {
        "seconds": median | {"step": statistics.median(run["forward"] + run["backward"] for run in runs)},
        "ratio_to_products": statistics.median(run["ratio"] for run in runs),
        "parameters": runs[0]["parameters"],
        "peak_memory": max(run["peak_memory"].get("gpu", run["peak_memory"]["host"]) for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="model", help=f"of {', '.join(MODELS)}; all, where none is named")
    parser.add_argument("--batch", type=int, default=100, help="sequences (100)")
    parser.add_argument("--length", type=int, default=784, help="steps (784)")
    parser.add_argument("--hidden", type=int, default=512, help="hidden size (512)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each part (3)")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    size = {"batch": args.batch, "length": args.length, "hidden": args.hidden}
    for name in args.models:
        if name not in MODELS:
            parser.error(f"there is no model {name}; choose from {', '.join(MODELS)}")

    host.set_environment()
    processes = multiprocessing.get_context("spawn")  # they read PyTorch anew, in this environment, as a run does
    runs: dict[str, list] = {part: [] for part in (FLOOR, *(args.models or MODELS))}
    for k in range(args.rounds):
        for part in runs:
            print(f"\rround {k + 1} of {args.rounds}: {part:20}", end="", file=sys.stderr, flush=True)
            with processes.Pool(1) as pool:
                runs[part].append(pool.apply(measure, (part, size)))
    print("\r" + 40 * " ", end="\r", file=sys.stderr)

    parts = {part: report(measured) for part, measured in runs.items()}
    result = {"size": size, "rounds": args.rounds, "parts": parts} | records.provenance()
    print(f"batch {args.batch}, {args.length} steps, hidden {args.hidden}; medians of {args.rounds}, in seconds")
    print(f"{'':14}{'forward':>10}{'backward':>10}{'optimizer':>10}{'/ products':>12}{'peak GB':>9}{'parameters':>12}")
    for part, measured in parts.items():
        row = "".join(f"{measured['seconds'][key]:10.3f}" for key in SECONDS)
        memory = f"{measured['peak_memory'] / 1e9:9.2f}{measured['parameters']:12,}"
        print(f"{part:14}{row}{measured['ratio_to_products']:12.2f}{memory}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        records.write(args.out, result)


if __name__ == "__main__":
    main()
