"""What a trained model comes to: metrics of the test split by each choice of weights, and its speed."""

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from hippo.data import Sequences
from hippo.data.base import move
from hippo.training import checkpoints, records
from hippo.training.config import ConfigError
from hippo.training.learner import SequenceData, SequenceLearner


def evaluate(
    trainer: pl.Trainer, module: SequenceLearner, data: SequenceData, epochs: list[dict[str, float]], folder: Path
) -> dict[str, Any]:
    """Read the test split: with the weights of the epoch that validation finds best, with the last ones, and with
    those that are the best under each shift.

    Args:
        trainer: What trained the module.
        module: Its weights are replaced by those that are tested.
        data: The data.
        epochs: The metrics of every epoch.
        folder: The checkpoints of the run.

    Returns:
        The metrics of each reading; of the first one also the confusion matrix (true class × predicted class) where
        there are classes, and the curve of metrics over a growing shift where there is one.

    Raises:
        ConfigError: If a checkpoint is missing or damaged, or not of the epoch that it should be of, or of other
            weights than those that the epoch's validation was of.
    """
    score, mode = records.criterion(data.splits.classes)
    best = max if mode == "max" else min
    kept = ("loss", "accuracy") if data.splits.classes else ("loss",)

    def metrics(split: str, source: dict[str, float]) -> dict[str, float]:
        return {name: source[f"{split}/{name}"] for name in kept}

    def test(sequences: Sequences, name: str = "test") -> dict[str, float]:
        module.test_name = name
        return metrics(name, dict(trainer.test(module, dataloaders=data.in_order(sequences), verbose=False)[0]))

    def read(path: Path, epoch: dict[str, float]) -> dict[str, Any]:
        """Load the weights of an epoch, and test them without and under each shift; fill in the confusion matrix."""
        checkpoint = checkpoints.load(path)
        if checkpoint["epoch"] + 1 != epoch["epoch"]:
            raise ConfigError(
                f"{path} holds epoch {checkpoint['epoch'] + 1} and not {epoch['epoch']}, which the run's history "
                "names; start this run over with force=true"
            )
        module.load_state_dict(checkpoint["state_dict"])
        if not tested:
            _assert_kept(trainer, module, data, epoch, path)
        result: dict[str, Any] = {
            "epoch": epoch["epoch"],
            "validation": metrics("validation", epoch),
            "test": test(data.splits.test),
        }
        if module.confusion is not None:  # of the first weights that are tested
            results.setdefault("confusion", module.confusion.compute().tolist())
        if data.splits.shifted:
            result["shifted"] = {
                name: {"validation": metrics(f"validation@{name}", epoch), "test": test(shift.test, f"test@{name}")}
                for name, shift in data.splits.shifted.items()
            }
        return result

    results: dict[str, Any] = {}
    tested: dict[float, dict[str, Any]] = {}
    readings: dict[str, dict[str, Any]] = {}
    for reading in ("best", "last", *(f"best@{shift}" for shift in data.splits.shifted)):
        split = reading.replace("best", "validation", 1)
        epoch = epochs[-1] if reading == "last" else best(epochs, key=lambda e: e[f"{split}/{score}"])
        if epoch["epoch"] not in tested:
            tested[epoch["epoch"]] = read(folder / f"{reading}.ckpt", epoch)
            if reading == "best" and data.splits.curve:
                results["curve"] = [
                    {"kind": point.kind, "value": point.value} | test(point.test, f"curve_{point.kind}/{point.value:g}")
                    for point in data.splits.curve
                ]
        readings[reading] = tested[epoch["epoch"]]
    return results | {"metrics": readings}


def _assert_kept(
    trainer: pl.Trainer, module: SequenceLearner, data: SequenceData, epoch: dict[str, float], path: Path
) -> None:
    """Validate the weights that are kept once more, and compare with what the history says of their epoch.

    Another machine, or another number of processes, may have trained them: sums in another order, and products of half
    precision by other kernels, are no other weights.
    """
    trainer.validate(module, dataloaders=data.in_order(data.splits.validation), verbose=False)
    recorded, found = epoch["validation/loss"], float(trainer.callback_metrics["validation/loss"])
    tolerance = 0.05 if trainer.precision.endswith("mixed") else 1e-3
    agree = math.isclose(recorded, found, rel_tol=tolerance, abs_tol=1e-9)
    if not agree and (math.isfinite(recorded) or math.isfinite(found)):
        raise ConfigError(
            f"the weights in {path} give the validation loss {found}, and the run's history has {recorded} for their "
            f"epoch, {epoch['epoch']}: they are not the same weights; start this run over with force=true"
        )


def throughput(trainer: pl.Trainer, module: SequenceLearner, data: Sequences) -> float:
    """Return how many samples a second a model reads of one sequence by itself, the best of three readings."""
    module.to(trainer.strategy.root_device).eval()  # a test leaves it on the CPU
    precision = trainer.precision_plugin
    fastest, batch = math.inf, precision.convert_input(move(data[0], module.device))
    with torch.inference_mode(), precision.forward_context():
        for _ in range(3):
            start = time.perf_counter()
            module(batch).cpu()
            fastest = min(fastest, time.perf_counter() - start)
    length = batch.x.shape[1] if batch.lengths is None else int(batch.lengths)
    return length / fastest
