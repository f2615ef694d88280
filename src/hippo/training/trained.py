"""A trained model with its task, ready for use: what `hippo.load` returns."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.plugins.precision import DoublePrecision, MixedPrecision, Precision
from torch import Tensor

from hippo import project
from hippo.data import Batch, Scaling, SequenceDataset, Sequences, Splits
from hippo.data.arrays import targets_of
from hippo.data.base import move
from hippo.data.files import read_labelled
from hippo.data.pack import Arrays, pack
from hippo.errors import UserError
from hippo.training import checkpoints, foreign, records
from hippo.training.config import did_you_mean
from hippo.training.learner import SequenceLearner


class LoadError(UserError, ValueError):
    """There is no trained model there, or it cannot take what it is given; the message says what to do."""


class Trained:
    """A trained model with its task.

    Attributes:
        record: The run's record.
        reading: Which weights these are.
        dataset: The description of the dataset that it was trained on.
        data: The root of all datasets.
        scaling: What its training split says that sequences are to be standardised by; None where they are not.
        classes: Names of the classes; none where numbers are predicted.
        channels: Channels C of a raw sequence.
        learner: The model and its read-out. It may be moved to a GPU: `trained.learner.cuda()`.
        model: The model alone.
    """

    def __init__(
        self,
        record: dict[str, Any],
        reading: str,
        dataset: SequenceDataset,
        data: Path,
        scaling: Scaling | None,
        learner: SequenceLearner,
    ) -> None:
        self.record, self.reading, self.dataset, self.data, self.scaling = record, reading, dataset, data, scaling
        self.classes: tuple[str, ...] = tuple(record["classes"])
        self.channels = learner.model.input_size if scaling is None else len(scaling.mean)
        self.learner = learner.eval()
        self.model = learner.model
        self._precision().convert_module(learner)

    def predict(self, sequences: Arrays, timestamps: Arrays | None = None, mask: Arrays | None = None) -> np.ndarray:
        """Return the name of the class of each sequence, (B,), or the numbers that are predicted, (B, M).

        Args:
            sequences: A list of arrays (L, C), or one array (B, L, C), as they are recorded. What the training did to
                them is done here: standardising, sampling, reordering. Nothing is dropped.
            timestamps: Of each sequence (L,), where the dataset has timestamps of its own.
            mask: Of each sequence (L,), or (L, C) for models that take it; True where something was observed.

        Raises:
            LoadError: If the model cannot take them.
        """
        outputs = self._read(sequences, timestamps, mask)
        return np.array(self.classes)[outputs.argmax(1).cpu()] if self.classes else outputs.cpu().numpy()

    def probabilities(
        self, sequences: Arrays, timestamps: Arrays | None = None, mask: Arrays | None = None
    ) -> np.ndarray:
        """Return the probability of each class, (B, classes), of sequences as `predict` takes them.

        Raises:
            LoadError: If the model cannot take them, or predicts numbers.
        """
        if not self.classes:
            raise LoadError("this model predicts numbers, of which there are no probabilities; use predict")
        return self._read(sequences, timestamps, mask).softmax(1).cpu().numpy()

    def splits(self) -> Splits:
        """Return the splits of its dataset, read from the root of all datasets."""
        return self.dataset.load(self.data)

    def metrics(self, split: Sequences) -> dict[str, float]:
        """Return the loss of a split, and the accuracy where there are classes."""
        outputs = self.outputs(split)
        y = split.everything.y.to(outputs.device)
        loss = {"loss": float(self.learner.criterion(outputs, self._precision().convert_input(y)))}
        return loss | ({"accuracy": float((outputs.argmax(1) == y).double().mean())} if self.classes else {})

    def outputs(self, split: Sequences) -> Tensor:
        """Return the logits (B, classes), or the numbers (B, M), of what a dataset has prepared."""
        size, found, precision = max(1, self.dataset.batch_size), [], self._precision()
        with torch.inference_mode(), precision.forward_context():
            for first in range(0, len(split), size):
                batch = split.__getitems__(list(range(first, min(first + size, len(split)))))
                batch = precision.convert_input(move(batch, self.learner.device))
                found.append(self.learner(batch))
        return torch.cat(found)

    def prepare(self, sequences: Arrays, timestamps: Arrays | None = None, mask: Arrays | None = None) -> Batch:
        """Return sequences as `predict` takes them in the form in which the model reads them; targets are 0.

        Raises:
            LoadError: If the dataset cannot have them.
        """
        try:
            return self._fit(pack(sequences, timestamps, mask))
        except ValueError as error:
            raise LoadError(str(error)) from error

    def read(self, path: Path | str) -> Sequences:
        """Return all the labelled sequences of a file in the form in which the model reads them.

        Args:
            path: An NPZ, CSV or .ts file, as `hippo.data.files.read_labelled` has it.

        Raises:
            LoadError: If the dataset cannot have them.
            hippo.data.DataError: If the file is not as it should be, or has other classes.
        """
        raw, labels = read_labelled(Path(path).expanduser(), "classes" if self.classes else "numbers")
        try:
            return Sequences(self._fit(raw)._replace(y=targets_of(labels, self.classes)))
        except ValueError as error:
            raise LoadError(f"{path}: {error}") from error

    def _fit(self, raw: Batch) -> Batch:
        if raw.x.shape[2] != self.channels:
            raise ValueError(f"the model reads {self.channels} channel(s), and these have {raw.x.shape[2]}")
        return self.dataset.prepare(raw, self.scaling)

    def _precision(self) -> Precision:
        name = self.record["config"]["trainer"].get("precision", "32-true")
        if name.endswith("mixed"):
            return MixedPrecision(name, self.learner.device.type)
        return DoublePrecision() if name == "64-true" else Precision()

    def _read(self, sequences: Arrays, timestamps: Arrays | None, mask: Arrays | None) -> Tensor:
        batch = self.prepare(sequences, timestamps, mask)
        try:
            return self.outputs(Sequences(batch))
        except ValueError as error:
            raise LoadError(str(error)) from error


def task_of(splits: Splits) -> dict[str, Any]:
    """Return what has to be known of the data, besides the classes, for a trained model to be used without them: the
    channels that it reads, the numbers that it predicts, and what channels are standardised by."""
    batch, scaling = splits.train.everything, splits.scaling
    return {
        "channels": batch.x.shape[2],
        "numbers": 0 if splits.classes else batch.y.shape[1],
        "scaling": {key: value.tolist() for key, value in scaling._asdict().items()} if scaling else None,
    }


def load(
    run: Path | str,
    reading: str = "best",
    *,
    data: Path | str | None = None,
    configs: Path | str | None = None,
    outputs: Path | str = "outputs",
) -> Trained:
    """Load a trained model with its task.

    Args:
        run: The folder of a run, or a record; the weights of a record that lies elsewhere are those below `outputs`.
        reading: The weights of which epoch: "best" in validation, "last", or "best@SHIFT", best under a shift.
        data: The root of all datasets; None for what HIPPO_DATA names, or data/.
        configs: The folder of your configurations. Classes that they name are built, besides those of the package.
            It is found as by `hippo train` where None: `configs` in the current folder.
        outputs: The folder of all runs.

    Raises:
        LoadError: If there is no complete run there, or it has not these weights.
        hippo.training.records.RecordError: If its record is damaged.
        hippo.training.config.ConfigError: If it names classes that are not admitted, or its weights are damaged.
        hippo.data.DataError: If an earlier record makes it necessary to read the dataset, and that cannot be had.
    """
    record, folder = _found(Path(run).expanduser(), Path(outputs).expanduser())
    if reading not in record["metrics"]:
        hint = did_you_mean(reading, record["metrics"]) or f"; choose from {', '.join(record['metrics'])}"
        raise LoadError(f"{run} has no weights {reading}{hint}")
    path = folder / f"{reading}.ckpt"
    checkpoint = checkpoints.load(path)
    if checkpoint.get("epoch", -1) + 1 != (epoch := record["metrics"][reading]["epoch"]):
        raise LoadError(f"{path} is not of epoch {epoch}, which the record has for {reading}: it is of another run")
    if configs is None:
        project.enter()
    own = project.configs() if configs is None else Path(configs)
    root = Path(data or os.environ.get("HIPPO_DATA") or "data").expanduser()
    dataset = foreign.build(record, "dataset", own)
    task = record.get("task") or task_of(dataset.load(root))
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
        model = foreign.build(record, "model", own, input_size=task["channels"])
        learner = SequenceLearner(model, len(record["classes"]), torch.optim.Adam, numbers=task["numbers"])
    try:
        learner.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise LoadError(f"{path} has not the weights of the model in {run}: it is of another run") from error
    scaling = None
    if task["scaling"]:
        scaling = Scaling(*(torch.tensor(task["scaling"][key], dtype=torch.float64) for key in Scaling._fields))
    return Trained(record, reading, dataset, root, scaling, learner)


def _found(run: Path, outputs: Path) -> tuple[dict[str, Any], Path]:
    """Return the record of a run, and the folder of its checkpoints."""
    path = run / "record.json" if run.is_dir() else run
    if not path.is_file():
        if (run / "checkpoints").is_dir():
            raise LoadError(f"{run} holds a run that is not complete: the same command goes on with it")
        below = sorted(str(found.parent) for found in run.glob("*/record.json")) if run.is_dir() else []
        hint = f"; below it are {', '.join(below[:3])}{', …' * (len(below) > 3)}" if below else ""
        raise LoadError(f"{run} is neither the folder of a run, as outputs/NAME/ID, nor a record{hint}")
    record = records.read(path)
    folders = path.parent / "checkpoints", outputs / record["name"] / record["id"] / "checkpoints"
    for folder in folders:
        if folder.is_dir():
            return record, folder
    raise LoadError(
        f"the weights of {path} are not here: there is neither {folders[0]} nor {folders[1]}. A record is published "
        f"without them; train them by: {record['command']}"
    )
