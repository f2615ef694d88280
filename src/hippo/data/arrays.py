"""A dataset from a file of one's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hippo.data.base import Batch, DataError, Scaling, SequenceDataset, Sequences, Splits
from hippo.data.files import read_labelled


@dataclass(frozen=True, kw_only=True)
class Arrays(SequenceDataset):
    """Sequences of an NPZ, a CSV or a .ts file, as `hippo.data.files.read_labelled` describes it.

    Of each class, or of all where there are numbers, the same shares are drawn for validation and test.

    Args:
        batch_size: Sequences a step.
        file: Below the root of all datasets, or seen from the current folder.
        test_file: The test split, if it has a file of its own.
        targets: What `y` is; what it looks like where None.
        validation: Share of the sequences of `file` that is validated on.
        test: Share that is tested on, where there is no `test_file`.
        split_seed: Seed of the split.
        standardize: Whether each channel gets mean 0 and standard deviation 1, by what was observed in training.
        timestamps: Whether sequences carry timestamps: None, if the file has them; True, those of the file, or else the
            numbers of the steps. Time starts at each sequence's first step.

    Raises:
        ValueError: If a setting is beyond its range.
    """

    file: str | None = None
    test_file: str | None = None
    targets: Literal["classes", "numbers"] | None = None
    validation: float = 0.15
    test: float = 0.15
    split_seed: int = 0
    standardize: bool = True
    timestamps: bool | None = None

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError("file has to name the sequences, as in dataset.file=sequences.npz")
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ValueError(
                f"validation and test are shares above 0, below 1 together, not {self.validation} and {self.test}"
            )

    def is_here(self, root: Path) -> bool:
        return all(_path(root, name).is_file() for name in (self.file, self.test_file) if name)

    def load(self, root: Path) -> Splits:
        paths = [_path(root, name) for name in (self.file, self.test_file) if name]
        (raw, labels), *apart = (read_labelled(path, self.targets) for path in paths)
        classes = names_of(labels)
        strata = labels if classes else np.zeros(len(labels))
        order = np.random.default_rng(self.split_seed).permutation(len(labels))
        order = order[np.argsort(strata[order], kind="stable")]
        tested = np.zeros(len(order), dtype=bool) if apart else _every(len(order), self.test)
        rest = order[~tested]
        validated = _every(len(rest), self.validation / (1 if apart else 1 - self.test))
        rows = [np.sort(part) for part in (rest[~validated], rest[validated], order[tested])]
        if min(map(len, rows[: 3 - len(apart)])) == 0:
            raise DataError(f"{paths[0]} has {len(order)} sequences, too few for the shares of validation and test")
        whole = Sequences(raw._replace(y=targets_of(labels, classes)))
        parts = [whole.__getitems__(part.tolist()) for part in rows if len(part)]
        parts += [only.raw._replace(y=targets_of(only.labels, classes)) for only in apart]
        if any(part.x.shape[2] != raw.x.shape[2] for part in parts):
            raise DataError(f"{paths[-1]} has {parts[-1].x.shape[2]} channels, and {paths[0]} {raw.x.shape[2]}")
        scaling = _scaling(parts[0]) if self.standardize else None
        return Splits(
            *(Sequences(self.prepare(part, scaling)) for part in parts),
            classes=classes,
            release="sha256 " + ", ".join(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths),
            scaling=scaling,
        )

    def prepare(self, raw: Batch, scaling: Scaling | None) -> Batch:
        """Return raw sequences standardised, with their timestamps if they are to carry any."""
        clock = raw.timestamps
        if self.timestamps is False:
            clock = None
        elif clock is not None:
            clock = clock - clock[:, :1]
        elif self.timestamps:
            clock = torch.arange(raw.x.shape[1], dtype=torch.float64, device=raw.x.device).expand(raw.x.shape[:2])
        return super().prepare(raw, scaling)._replace(timestamps=clock)


def names_of(labels: np.ndarray) -> tuple[str, ...]:
    """Return the names of the classes, whole numbers by their size; none where labels are numbers."""
    if labels.ndim == 2:
        return ()
    names = set(labels.tolist())
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int if whole else None))


def targets_of(labels: np.ndarray, classes: tuple[str, ...]) -> Tensor:
    """Return the targets of a batch: the numbers of the classes (B,), or numbers (B, M) in float32.

    Raises:
        DataError: If there is a class that is not among these.
    """
    if labels.ndim == 2:
        return torch.from_numpy(labels).float()
    if unknown := sorted(set(labels.tolist()) - set(classes)):
        raise DataError(f"there is a class {unknown[0]}, which is none of those trained on: {', '.join(classes)}")
    number = {name: k for k, name in enumerate(classes)}
    return torch.tensor([number[label] for label in labels.tolist()], device="cpu")


def _path(root: Path, name: str) -> Path:
    below = root / name
    here = Path(name).expanduser()
    return here if here.is_file() and not below.is_file() else below


def _every(count: int, share: float) -> np.ndarray:
    """Return which of `count` things in a row are chosen for a share, evenly along the row."""
    steps = np.floor(np.arange(count + 1) * share + 0.5)
    return np.diff(steps) > 0


def _scaling(batch: Batch) -> Scaling:
    """Return what standardises a split by what was observed of it; a constant channel keeps its unit."""
    steps = torch.arange(batch.x.shape[1], device="cpu")
    observed = torch.ones_like(batch.x, dtype=torch.bool)
    if batch.lengths is not None:
        observed &= (steps < batch.lengths.unsqueeze(1)).unsqueeze(-1)
    if batch.mask is not None:
        observed &= batch.mask if batch.mask.dim() == 3 else batch.mask.unsqueeze(-1)
    channels = [batch.x[..., c][observed[..., c]] for c in range(batch.x.shape[2])]
    for number, values in enumerate(channels):
        if not len(values):
            raise DataError(f"channel {number} is never observed in the training split; leave it out")
    deviations = torch.stack([values.std(correction=0) for values in channels])
    means = torch.stack([values.mean() for values in channels])
    return Scaling(means, torch.where(deviations > 0, deviations, 1.0))
