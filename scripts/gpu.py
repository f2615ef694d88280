"""What a GPU is to be asked, one command a stage: each takes less than ten minutes, and goes on where it was cut.

    python scripts/gpu.py check    # do the kernels compute what they replace, and does a network train as on the CPU?
    python scripts/gpu.py step     # launch shapes of the LegS step; a training step beside nn.GRU and a plain loop
    python scripts/gpu.py table    # permuted MNIST at the paper's size, run by run, until the time is up

`check` comes first. It ends with an error where a test fails, a loss differs from the CPU's or does not fall, the host
waits for the GPU within a step, or graphs did not serve. `check` and `step` write what they measured to
`results/benchmarks/gpu_check.json` and `gpu_step.json`. `table` leaves its runs in `outputs`, for the next call to
resume, and copies the records of complete ones to `results`.
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hippo.data import MNIST
from hippo.models import HiPPORNN
from hippo.tables.table import cells, read_table
from hippo.training import host, records
from hippo.training.sweeps import Run

ROOT = Path(__file__).parents[1]
HIDDEN, BATCH, STEPS = 512, 100, 300
TOLERANCE = 1e-3  # of the first ten losses, on the GPU and on the CPU
TESTS = ("tests/kernels/gated/test_gpu.py", "tests/kernels/legs/test_gpu.py", "tests/kernels/common/test_graphs.py")
ROWS = ("legs", "gru", "lmu", "legt", "lagt", "legt_20", "exprnn", "mgu", "rand", "rnn")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


class Classifier(nn.Module):
    """A body from (B, L, 1) to features (B, D), with a linear readout of ten classes."""

    def __init__(self, body: nn.Module, size: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class LastState(nn.GRU):
    """The last hidden state (B, D) of the framework's GRU."""

    def __init__(self, size: int) -> None:
        super().__init__(1, size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][:, -1]


class StepByStep(HiPPORNN):
    """The HiPPO network by its naive loop."""

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        return self.step_by_step(x, timestamps)[-1]


class Training:
    """The training of a network on the first batches of permuted MNIST, with the weights of seed 0.

    Args:
        make: Makes the body.
        data: The data root.
        device: Where.
        batches: How many batches there are.
    """

    def __init__(self, make: Callable[[], nn.Module], data: Path, device: str, batches: int) -> None:
        torch.manual_seed(0)
        self.model = Classifier(make(), HIDDEN).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        split = MNIST().load(data).train.everything
        self.x, self.y = (v[: batches * BATCH].to(device).split(BATCH) for v in (split.x, split.y))
        self.losses: list[Tensor] = []

    def steps(self, count: int) -> list[Tensor]:
        """Take some steps, and return their losses, each (): the host waits for none of them."""
        for _ in range(count):
            batch = len(self.losses) % len(self.x)
            loss = nn.functional.cross_entropy(self.model(self.x[batch]), self.y[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.detach())
        return self.losses[-count:]


def check(data: Path) -> dict[str, Any]:
    """Run the kernels' tests on the GPU; train there, and on the CPU from the same weights.

    Returns:
        What was measured, and `faults`, a sentence each.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    passed = subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
    training = Training(lambda: HiPPORNN(1, HIDDEN), data, "cuda", STEPS)
    losses = [float(loss) for loss in training.steps(10)]
    print("ten steps on the CPU …", flush=True)
    on_cpu = [float(loss) for loss in Training(lambda: HiPPORNN(1, HIDDEN), data, "cpu", 10).steps(10)]
    waits = host_waits(lambda: training.steps(3))
    torch.cuda.synchronize()
    start = time.perf_counter()
    later = torch.stack(training.steps(STEPS - 13))
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / len(later)
    difference = max(abs(one - other) for one, other in zip(losses, on_cpu, strict=True))
    first, last, route = sum(losses) / 10, later[-30:].mean().item(), getattr(training.model.body, "route", None)
    faults = {
        "tests of the kernels fail: see above": not passed,
        f"the first ten losses differ from the CPU's by up to {difference:.2g}": not difference <= TOLERANCE,
        f"the loss does not fall: {first:.3f} at first, {last:.3f} after {STEPS} steps": not last < first,
        f"the host waits for the GPU within a step, in three steps: {waits}": bool(waits),
        f"graphs did not serve, but {route!r}": route != "gpu: graphs",
    }
    return {
        "losses": losses,
        "losses_cpu": on_cpu,
        "loss_last_30": last,
        "seconds_a_step": seconds,
        "peak_memory": torch.cuda.max_memory_allocated(),
        "host_waits": waits,
        "route": route,
        "faults": [fault for fault, there in faults.items() if there],
    }


def host_waits(work: Callable[[], Any]) -> dict[str, int]:
    """Return how often the host waited for the GPU during some work, by the call that made it wait."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as idle:
        pass  # the profiler waits itself, when it begins and when it ends
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as busy:
        work()
    own, all_ = ({event.key: event.count for event in p.key_averages() if event.key in WAITS} for p in (idle, busy))
    return {key: more for key, count in all_.items() if (more := count - own.get(key, 0)) > 0}


def milliseconds(work: Callable[[], Any], rounds: int = 7) -> float:
    """Return the median time of a call on the GPU; the first three, which build, load and capture, do not count."""
    times = []
    for _ in range(rounds + 3):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    return statistics.median(times[3:])


def step(data: Path) -> dict[str, Any]:
    """Measure the launch shapes of the LegS step, and a training step beside nn.GRU and the naive loop."""
    from hippo.kernels import legs

    legs_step = legs.gpu_step()

    c, relative, u = (torch.rand(*shape, device="cuda") for shape in ((BATCH, HIDDEN), (BATCH,), (BATCH,)))
    shapes = {}
    for columns, warps in itertools.product((1, 2, 4), (1, 2, 4)):
        shape = legs_step.launch_shape(HIDDEN, columns, warps)

        def hundred(shape: dict[str, int] = shape) -> None:
            for _ in range(100):
                legs_step.advance(c, relative, u, 0.5, c, shape=shape)

        shapes[f"{columns} columns, {warps} warps"] = milliseconds(hundred) / 100
    bodies: dict[str, Callable[[], nn.Module]] = {
        "legs": lambda: HiPPORNN(1, HIDDEN),
        "nn.GRU": lambda: LastState(HIDDEN),
        "legs, naive loop": lambda: StepByStep(1, HIDDEN),
    }
    times = {}
    for name, make in bodies.items():
        training = Training(make, data, "cuda", 1)
        torch.cuda.reset_peak_memory_stats()
        took = milliseconds(lambda training=training: training.steps(1))
        times[name] = {"milliseconds": took, "peak_memory": torch.cuda.max_memory_allocated()}
    return {"launch_milliseconds": shapes, "training_step": times}


def table(seeds: Iterable[int]) -> list[Run]:
    """Return the runs of permuted MNIST's table, all rows of the first seed before any of the second, LegS first."""
    runs = {
        cell.row: cell.runs
        for cell in cells(read_table(ROOT / "configs/table/pmnist.yaml"), ROOT / "configs")
        if cell.runs
    }
    return [run for seed in seeds for row in ROWS for run in runs[row] if run.config["seed"] == seed]


def train(runs: Iterable[Run], main: Path, options: list[str], minutes: float) -> None:
    """Train runs one after another until the time is up. A run that is cut stops after its last complete epoch.

    Args:
        runs: What to train; what is complete is passed over.
        main: train.py.
        options: More overrides.
        minutes: How long.

    Raises:
        SystemExit: If a run fails.
    """
    deadline = time.monotonic() + 60 * minutes
    for run in runs:
        if run.state == "done":
            continue
        if time.monotonic() >= deadline:
            print(f"the time is up; next is {run.command}")
            return
        print(run.command, flush=True)
        process = subprocess.Popen([sys.executable, str(main), *run.overrides, *options], cwd=ROOT)
        try:
            process.wait(timeout=deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
            print("the time is up; the same command goes on")
            return
        if process.returncode:
            sys.exit(f"{run.command} failed with exit status {process.returncode}: see above")


def main() -> None:
    host.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["check", "step", "table"])
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("HIPPO_DATA", ROOT / "data")), help="data root"
    )
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs", help="folder of the runs (outputs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of what is measured (results)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for `table`: when to stop (9)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(5)), metavar="SEED", help="for `table` (0–4)"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU here, or this PyTorch cannot use it; see torch.cuda.is_available()")
    if args.stage == "table":
        runs = [run.at(args.outputs.absolute()) for run in table(args.seeds)]
        train(runs, ROOT / "train.py", ["trainer=gpu", f"paths.data={args.data.absolute()}"], args.minutes)
        collect = [sys.executable, "scripts/collect.py", str(args.outputs.absolute())]
        sys.exit(subprocess.run(collect, cwd=ROOT).returncode)
    result = {"check": check, "step": step}[args.stage](args.data)
    result |= {"size": {"batch": BATCH, "length": 784, "hidden": HIDDEN}} | records.provenance()
    path = args.results / "benchmarks" / f"gpu_{args.stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, result)
    print(f"{path}:\n{path.read_text()}")
    if faults := result.get("faults"):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
