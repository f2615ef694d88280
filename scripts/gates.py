"""How much of what a LegS network loses at another sampling rate is lost by its gate, which counts samples.

    python train.py -m experiment=trajectories model=legs seed=0,1,2
    python scripts/gates.py outputs/trajectories_legs/HASH-seed*                  # a table
    python scripts/gates.py outputs/trajectories_legs/HASH-seed* --out results    # and a record and a figure there

With each sample the gate replaces a share g of the hidden state: at twice the rate, more in the same time. Here the
same networks, not trained anew, are also tested with shares of 1 − (1 − g)^(1 / rate), which replace the same in the
same time, as long as what they depend on stands still between samples (gates as warped time: Tallec and Ollivier, arXiv
1804.11188). For that they have to be told the rate, so it is a diagnosis and not a model of the table.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from tqdm import tqdm

from hippo.tables.statistics import summarize
from hippo.training import checkpoints, foreign, host, records
from hippo.training.config import ConfigError
from hippo.training.errors import explain
from hippo.training.learner import SequenceLearner

CONFIGS = Path(__file__).parents[1] / "configs"
RATES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
GATES = ("by sample", "by time")


def read(folders: list[Path]) -> list[dict[str, Any]]:
    """Return the records of runs.

    Raises:
        ConfigError: If they are not all of one configuration, of a HiPPO network on Character Trajectories without a
            clock, all of one length.
        RecordError, OSError: If a run has no record.
    """
    found = [records.read(folder / "record.json") for folder in folders]
    for folder, record in zip(folders, found, strict=True):
        dataset, model = record["config"]["dataset"], record["config"]["model"]
        if model["_target_"] != "hippo.models.HiPPORNN":
            raise ConfigError(f"{folder} is not of a HiPPO network, such as model=legs")
        if dataset["_target_"] != "hippo.data.CharacterTrajectories" or dataset.get("timestamps"):
            raise ConfigError(f"{folder} is not of experiment=trajectories without timestamps")
        if dataset.get("padding") != "last_value":
            raise ConfigError(f"{folder} has series of their own lengths; they should be padded")
        if record["hash"] != found[0]["hash"]:
            raise ConfigError(f"{folder} is not of the same configuration as {folders[0]}; name its seeds only")
    return found


def test(folder: Path, record: dict[str, Any], data_root: Path, rates: tuple[float, ...]) -> dict[str, list[float]]:
    """Return the test accuracy in per cent at each rate, with either gate, of a run's epoch that is best in validation.

    Args:
        folder: The run's.
        record: Its record.
        data_root: Where the data lie.
        rates: Over that in training.

    Raises:
        ConfigError: If the checkpoint is damaged, a rate leaves nothing of the series, or the record names a class that
            a file from elsewhere cannot name.
        DataError: If the data are missing or damaged.
    """
    dataset = foreign.build(record, "dataset", CONFIGS, shifts={}, curve={"rate": list(rates)})
    splits = dataset.load(data_root)
    model = foreign.build(record, "model", CONFIGS, input_size=splits.train.everything.x.shape[2])
    learner = SequenceLearner(model, len(splits.classes), torch.optim.Adam)
    learner.load_state_dict(checkpoints.load(folder / "checkpoints" / "best.ckpt")["state_dict"])
    found: dict[str, list[float]] = {gate: [] for gate in GATES}
    for point in splits.curve:
        x, y, *_ = point.test.everything
        gaps = torch.full((x.shape[1], 1, 1), 1 / point.value)
        for name, told in zip(GATES, (None, gaps), strict=True):
            logits = learner.head(model.step_by_step(x, None, told)[-1])
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


def rate(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"above 0 and finite, not {text}")
    return value


def main() -> None:
    host.prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of complete runs, with their checkpoints")
    parser.add_argument(
        "--rates", nargs="+", type=rate, default=RATES, help="over that in training; 1 is always there (1/4 … 4)"
    )
    data_root = Path(os.environ.get("HIPPO_DATA", "data"))
    parser.add_argument("--data", type=Path, default=data_root, help="data root (that of train.py)")
    parser.add_argument("--out", type=Path, help="folder for benchmarks/ and figures/")
    args = parser.parse_args()
    rates = sorted({1.0, *args.rates})

    try:
        found = read(args.runs)
        runs = [{key: record[key] for key in ("name", "id", "command", "git")} for record in found]
        with torch.inference_mode():
            each = [
                test(folder, record, args.data.expanduser(), tuple(rates))
                for folder, record in zip(tqdm(args.runs, unit="run"), found, strict=True)
            ]
    except Exception as error:
        if (explanation := explain(error)) is None:
            raise
        sys.exit(f"error: {explanation}")
    accuracy = {gate: [found[gate] for found in each] for gate in GATES}
    print("gates        " + "".join(f"{f'× {rate:g}':>8}" for rate in rates))
    for gate in GATES:
        means = [summarize(list(values)).mean for values in zip(*accuracy[gate], strict=True)]
        print(f"{gate:13}" + "".join(f"{mean:8.1f}" for mean in means))
    if args.out:
        path = args.out / "benchmarks" / "gates.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(path, {"runs": runs, "rates": rates, "accuracy": accuracy} | records.provenance())
        draw(rates, accuracy, args.out / "figures" / "gates.png")


if __name__ == "__main__":
    main()
