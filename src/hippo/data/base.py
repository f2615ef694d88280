"""What every dataset is: three splits of labelled sequences, held as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


class DataError(RuntimeError):
    """A data file is missing, damaged, or holds something that cannot be learnt from; the message says what to do."""


class Batch(NamedTuple):
    """Sequences in the form that `hippo.models.SequenceModel` takes, with what is to be known of them.

    Attributes:
        x: (B, L, C) float.
        y: (B,) int64, class indices; or (B, M) float, numbers.
        timestamps: (B, L), or None.
        mask: (B, L), True where a step was observed, or None where every step was.
        lengths: (B,), or None where all sequences are L long, padding included.
    """

    x: Tensor
    y: Tensor
    timestamps: Tensor | None = None
    mask: Tensor | None = None
    lengths: Tensor | None = None


def steps(x: Tensor, y: Tensor, timestamps: bool) -> Batch:
    """Return sequences sampled at the times 0, 1, …, which they carry as timestamps or not."""
    return Batch(x, y, torch.arange(float(x.shape[1])).expand(x.shape[:2]) if timestamps else None)


def move(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    x, y, *optional = batch
    return Batch(x.to(device), y.to(device), *(None if field is None else field.to(device) for field in optional))


class Sequences(Dataset[Batch]):
    """A split in memory. A whole batch is taken by one indexing operation, not item by item.

    Args:
        everything: The split as one batch.

    Raises:
        DataError: If the split is empty, or holds values or timestamps that are not finite.
    """

    def __init__(self, everything: Batch) -> None:
        if len(everything.y) == 0 or everything.x.shape[1] == 0:
            raise DataError(f"a split must hold sequences; this one is {tuple(everything.x.shape)}")
        if not torch.isfinite(everything.x).all():
            bad = int((~torch.isfinite(everything.x)).flatten(1).any(1).sum())
            raise DataError(f"{bad} of {len(everything.x)} sequences hold NaN or infinite values; mask those steps")
        if everything.timestamps is not None and not torch.isfinite(everything.timestamps).all():
            raise DataError("timestamps hold NaN or infinite values; choose a smaller time_scale, or mend them")
        self.everything = everything

    def __len__(self) -> int:
        return len(self.everything.y)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        x, y, *optional = self.everything
        return Batch(x[rows], y[rows], *(None if field is None else field[rows] for field in optional))


class Shifted(NamedTuple):
    """Validation and test, as they are after a shift that training does not know."""

    validation: Sequences
    test: Sequences


class CurvePoint(NamedTuple):
    """The test split at one point of a curve: what is changed, by how much, and what comes of it."""

    kind: str
    value: float
    test: Sequences


class Splits(NamedTuple):
    """Train, validation and test, and what else to evaluate on.

    Attributes:
        train: What is trained on.
        validation: What chooses the weights; no shift.
        test: What is reported; no shift.
        classes: Names of the classes; none where numbers are to be known.
        shifted: Shifts by their names, evaluated in every epoch and at the end.
        curve: Evaluated at the end.
    """

    train: Sequences
    validation: Sequences
    test: Sequences
    classes: tuple[str, ...] = ()
    shifted: Mapping[str, Shifted] = MappingProxyType({})
    curve: Sequence[CurvePoint] = ()


@dataclass(frozen=True, kw_only=True)
class SequenceDataset(ABC):
    """The description of a dataset: all that decides its contents, and nothing read from disk yet.

    Args:
        batch_size: Sequences a step, over all devices together.

    Attributes:
        with_timestamps: What the setting `timestamps` has to be for models that know what time is.
    """

    with_timestamps: ClassVar[str] = "true"
    batch_size: int = 100

    def is_here(self, root: Path) -> bool:
        """Return whether `load` finds all its files in the data root, and downloads nothing."""
        return True

    @abstractmethod
    def load(self, root: Path) -> Splits:
        """Read the splits from the data root, downloading what is missing. Raises DataError if that fails."""
