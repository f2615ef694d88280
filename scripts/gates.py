"""Where a LegS network loses accuracy at another sampling rate: in its gate, which counts samples.

    python train.py -m experiment=trajectories model=legs seed=0,1,2
    python scripts/gates.py outputs/trajectories_legs/*                  # a table
    python scripts/gates.py outputs/trajectories_legs/* --out results    # and benchmarks/gates.json, figures/gates.png

With each sample the gate replaces a share g of the hidden state: at twice the rate, more in the same time. Here the
same networks, not trained anew, are also tested with shares of 1 − (1 − g)^(1 / rate), which in the same time replace
the same at every rate (gates as warped time: Tallec and Ollivier, arXiv 1804.11188). For that they have to be told the
rate, so it is a diagnosis and not a model of the table.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from hippo.data import CharacterTrajectories
from hippo.models import HiPPORNN
from hippo.tables.statistics import summarize
from hippo.training import checkpoints, records
from hippo.training.learner import SequenceLearner

RATES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
GATES = ("by sample", "by time")


def by_time(rate: float) -> Callable[[Tensor], Tensor]:
    """Return a gate that replaces at `rate` times the samples what a sigmoid does at 1."""
    return lambda z: -torch.expm1(torch.nn.functional.logsigmoid(-z) / rate)


def test(folder: Path, data_root: Path | None, rates: tuple[float, ...]) -> dict[str, list[float]]:
    """Return the test accuracy in per cent at each rate, with either gate, of a run's epoch that is best in validation.

    Raises:
        ValueError: If the run is not of a HiPPO network on Character Trajectories without a clock and of equal lengths.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    dataset = instantiate(config["dataset"] | {"shifts": {}, "sweep": {"rate": list(rates)}})
    if not isinstance(dataset, CharacterTrajectories) or dataset.timestamps or dataset.padding != "last_value":
        raise ValueError(f"{folder} is not of experiment=trajectories without timestamps")
    splits = dataset.load(data_root or Path(config["paths"]["data"]).expanduser())
    model = instantiate(config["model"], input_size=splits.train.everything.x.shape[2])
    if not isinstance(model, HiPPORNN):
        raise ValueError(f"{folder} is not of a HiPPO network, such as model=legs")
    learner = SequenceLearner(model, len(splits.classes), torch.optim.Adam)
    learner.load_state_dict(checkpoints.load(folder / "checkpoints" / "best.ckpt")["state_dict"])
    found: dict[str, list[float]] = {gate: [] for gate in GATES}
    for point in splits.sweep:
        x, y, *_ = point.test.everything
        for name, gate in zip(GATES, (torch.sigmoid, by_time(point.value)), strict=True):
            logits = learner.head(model.step_by_step(x, None, gate)[-1])
            found[name].append(100 * (logits.argmax(1) == y).float().mean().item())
    return found


def draw(rates: list[float], accuracy: dict[str, list[list[float]]], path: Path) -> None:
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, runs in accuracy.items():
        summaries = [summarize(list(values)) for values in zip(*runs, strict=True)]
        (line,) = axes.semilogx(rates, [summary.mean for summary in summaries], "o-", ms=4, label=f"gates {name}")
        for values in runs:
            axes.plot(rates, values, lw=0.7, alpha=0.5, color=line.get_color())
    axes.set(xlabel="sampling rate / that in training", ylabel="test accuracy, %")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of complete runs, with their checkpoints")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="over that in training (1/4 … 4)")
    parser.add_argument("--data", type=Path, help="data root, where it is not that of the runs")
    parser.add_argument("--out", type=Path, help="folder for benchmarks/ and figures/")
    args = parser.parse_args()

    runs, accuracy = [], {gate: [] for gate in GATES}
    for folder in tqdm(args.runs, unit="run"):
        try:
            record = records.read(folder / "record.json")
            with torch.inference_mode():
                found = test(folder, args.data, tuple(args.rates))
        except (OSError, ValueError) as error:
            parser.error(f"{folder}: {error}")
        runs.append({key: record[key] for key in ("name", "id", "command", "git")})
        for gate in GATES:
            accuracy[gate].append(found[gate])
    print("gates        " + "".join(f"{f'× {rate:g}':>8}" for rate in args.rates))
    for gate in GATES:
        means = [summarize(list(values)).mean for values in zip(*accuracy[gate], strict=True)]
        print(f"{gate:13}" + "".join(f"{mean:8.1f}" for mean in means))
    if args.out:
        path = args.out / "benchmarks" / "gates.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, {"runs": runs, "rates": list(args.rates), "accuracy": accuracy} | records.provenance())
        draw(list(args.rates), accuracy, args.out / "figures" / "gates.png")


if __name__ == "__main__":
    main()
