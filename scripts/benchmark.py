"""Time one training step at permuted MNIST's size (batch 100, 784 steps, hidden 512), beside nn.GRU and the arithmetic.

Each part runs in a process of its own, so that peak memory is its own, `--rounds` times in turn; medians are reported.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import hippo.training  # noqa: F401  (flushes denormals before the thread pool starts)
from hippo.models import GRU, HiPPORNN
from hippo.training import records


def network(kind: type, batch: int, length: int, hidden: int) -> dict[str, float]:
    """Return seconds of forward, backward and optimizer of the second step; the first warms up."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.nn.Sequential(kind(1, hidden), torch.nn.Linear(hidden, 10)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.rand(batch, length, 1, device=device), torch.randint(10, (batch,), device=device)
    marks = []

    def mark() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    for _ in range(2):
        marks.clear()
        optimizer.zero_grad()
        mark()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        mark()
        loss.backward()
        mark()
        optimizer.step()
        mark()
    return {name: marks[i + 1] - marks[i] for i, name in enumerate(("forward", "backward", "optimizer"))}


def products(batch: int, length: int, hidden: int) -> dict[str, float]:
    """Return seconds of the matrix products that a HiPPO-RNN cannot do without: the floor of its training step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.randn(2 * hidden, hidden + 1, device=device)
    read, grad = torch.randn(batch, hidden + 1, device=device), torch.randn(batch, 2 * hidden, device=device)
    reads, grads = read.repeat(length, 1), grad.repeat(length, 1)
    marks = []
    for _ in range(2):
        marks = [time.perf_counter()]
        for _ in range(length):
            read @ weight.mT
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        for _ in range(length):
            grad @ weight
        grads.mT @ reads
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return {"forward": marks[1] - marks[0], "backward": marks[2] - marks[1], "optimizer": 0.0}


PARTS = {
    "HiPPO-LegS": lambda *size: network(HiPPORNN, *size),
    "nn.GRU": lambda *size: network(GRU, *size),
    "matrix products alone": products,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--length", type=int, default=784)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = {"batch": args.batch, "length": args.length, "hidden": args.hidden}
    if args.part:
        print(json.dumps(PARTS[args.part](*size.values()) | {"peak_memory": records.peak_memory()}))
        return

    runs: dict[str, list] = {part: [] for part in PARTS}
    for _ in range(args.rounds):
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part]
            command += [word for name, value in size.items() for word in (f"--{name}", str(value))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[part].append(json.loads(done.stdout))
    result = {"size": size, "rounds": args.rounds, "parts": {}} | records.provenance()
    floor = statistics.median(run["forward"] + run["backward"] for run in runs["matrix products alone"])
    print(f"batch {args.batch}, {args.length} steps, hidden {args.hidden}; medians of {args.rounds}, in seconds")
    print(f"{'':22}{'forward':>10}{'backward':>10}{'optimizer':>10}{'/ products':>12}{'peak GB':>9}")
    for part, measured in runs.items():
        seconds = {k: statistics.median(run[k] for run in measured) for k in ("forward", "backward", "optimizer")}
        device = "gpu" if "gpu" in measured[0]["peak_memory"] else "host"
        memory = max(run["peak_memory"][device] for run in measured)
        ratio = (seconds["forward"] + seconds["backward"]) / floor
        result["parts"][part] = {"seconds": seconds, "ratio_to_products": ratio, "peak_memory": memory}
        row = "".join(f"{value:10.3f}" for value in seconds.values())
        print(f"{part:22}{row}{ratio:12.2f}{memory / 1e9:9.2f}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        records.write(args.out, result)


if __name__ == "__main__":
    main()
