"""What every dataset is: three splits of labelled sequences, held as tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hippo.errors import UserError


class DataError(UserError, RuntimeError):
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
    clock = torch.arange(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[:2])
    return Batch(x, y, clock if timestamps else None)


def move(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    x, y, *optional = batch
    return Batch(x.to(device), y.to(device), *(None if field is None else field.to(device) for field in optional))


class Sequences(Dataset[Batch]):
    """A split in memory. A whole batch is taken by one indexing operation, not item by item.

    Args:
        everything: The split as one batch.

    Raises:
        DataError: If the split is empty, or holds values or timestamps that are not finite where they are read: not
            where the mask says that nothing was observed, nor beyond a sequence's length.
    """

    def __init__(self, everything: Batch) -> None:
        _check_form(everything)
        read = _read(everything)
        if (bad := (~torch.isfinite(everything.x) & read).flatten(1).any(1)).any():
            raise DataError(
                f"{int(bad.sum())} of {len(bad)} sequences hold NaN or infinite values, sequence "
                f"{int(bad.nonzero()[0])} first; say in `mask` what was not observed"
            )
        observed, times = read.any(-1), everything.timestamps
        if (empty := ~observed.any(1)).any():
            raise DataError(f"sequence {int(empty.nonzero()[0])} has no observed step; leave it out, or give it one")
        if times is not None and (~torch.isfinite(times) & observed).any():
            raise DataError("timestamps hold NaN or infinite values; choose a smaller time_scale, or mend them")
        if times is not None:
            latest = torch.where(observed, times.double(), 0.0).clamp(min=0.0).cummax(1).values
            if (bad := (observed & (times.double() < latest)).any(1)).any():
                raise DataError(
                    "timestamps must be at least 0 and must not decrease, as they do in sequence "
                    f"{int(bad.nonzero()[0])}; sort it by time, and let time begin with it"
                )
        self.everything = everything

    def __len__(self) -> int:
        return len(self.everything.y)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices, device=self.everything.x.device)
        x, y, *optional = self.everything
        return Batch(x[rows], y[rows], *(None if field is None else field[rows] for field in optional))


def _check_form(batch: Batch) -> None:
    """Raise DataError unless all fields are tensors of the shapes and types that `Batch` says."""
    for name, value in batch._asdict().items():
        if not isinstance(value, Tensor) and (value is not None or name in ("x", "y")):
            raise DataError(f"{name} must be a tensor, not {type(value).__name__}")
    x, y, times, mask, lengths = batch
    if x.dim() != 3 or 0 in x.shape or not x.is_floating_point():
        raise DataError(
            f"a split must hold sequences, x of floating-point numbers (B, L, C) with B, L, C ≥ 1; this one is "
            f"{tuple(x.shape)} of {x.dtype}"
        )
    for name, value, shapes in (
        ("timestamps", times, [x.shape[:2]]),
        ("mask", mask, [x.shape[:2], x.shape]),
        ("lengths", lengths, [x.shape[:1]]),
        ("y", y, [x.shape[:1], (len(x), *y.shape[1:])]),
    ):
        if value is not None and value.shape not in shapes:
            shown = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
            raise DataError(f"{name} must be {shown} to match x {tuple(x.shape)}, not {tuple(value.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise DataError(f"mask must be of booleans, True where something was observed, not {mask.dtype}")
    if times is not None and (times.is_complex() or times.dtype == torch.bool):
        raise DataError(f"timestamps must be real numbers, not {times.dtype}")
    if lengths is not None and (
        lengths.dtype not in (torch.int64, torch.int32) or not 1 <= lengths.min() <= lengths.max() <= x.shape[1]
    ):
        raise DataError(f"lengths must be whole numbers from 1 to {x.shape[1]}, not {lengths.tolist()}"[:300])


def _read(batch: Batch) -> Tensor:
    """Return which values a model gets to read, (B, L, 1) or (B, L, C)."""
    read = torch.ones(*batch.x.shape[:2], 1, dtype=torch.bool, device=batch.x.device)
    if batch.lengths is not None:
        read &= (torch.arange(batch.x.shape[1], device=batch.x.device) < batch.lengths.unsqueeze(1)).unsqueeze(-1)
    if batch.mask is not None:
        read = read & (batch.mask if batch.mask.dim() == 3 else batch.mask.unsqueeze(-1))
    return read


class Scaling(NamedTuple):
    """What the channels of raw sequences are standardised by: (x − mean) / scale.

    Attributes:
        mean: (C,).
        scale: (C,).
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Scaling":
        """Return what standardises values (K, C): their mean, and their standard deviation, which may be 0."""
        return cls(values.mean(0), values.std(0) + 1e-5)

    def __call__(self, x: Tensor) -> Tensor:
        """Return sequences (B, L, C) standardised."""
        return (x - self.mean) / self.scale


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
    """Train, validation and test, and what else to evaluate on. `check` says whether they fit each other.

    Attributes:
        train: What is trained on.
        validation: What chooses the weights; no shift.
        test: What is reported; no shift.
        classes: Names of the classes; none where numbers are to be known.
        shifted: Shifts by their names, evaluated in every epoch and at the end.
        curve: Evaluated at the end.
        release: Which release of its files was read, of a dataset that has several.
        scaling: What the training split says that sequences are to be standardised by; None where they are not.
    """

    train: Sequences
    validation: Sequences
    test: Sequences
    classes: tuple[str, ...] = ()
    shifted: Mapping[str, Shifted] = {}  # nobody writes to it, and it can be pickled
    curve: Sequence[CurvePoint] = ()
    release: str | None = None
    scaling: Scaling | None = None

    def check(self) -> None:
        """Raise DataError unless sequences have the same channels in all splits, in float32, and targets are (B,)
        classes where there are classes, and (B, M) numbers where not."""
        shifted = [split for shift in self.shifted.values() for split in shift]
        for split in (self.train, self.validation, self.test, *shifted, *(point.test for point in self.curve)):
            (x, y, times, *_), first = split.everything, self.train.everything
            timed = (times is None) == (first.timestamps is None)
            if x.dtype != torch.float32 or x.shape[2] != first.x.shape[2] or not timed:
                raise DataError(
                    f"all splits must have the channels of the training, {first.x.shape[2]}, in float32, and "
                    f"timestamps if it has them; here is one with {x.shape[2]} in {x.dtype}"
                )
            kind = (1, torch.int64) if self.classes else (2, torch.float32)
            fits = (y.dim(), y.dtype) == kind and 0 not in y.shape
            if not fits or y.shape[1:] != first.y.shape[1:]:
                raise DataError(
                    "y must be (B,) whole numbers (int64) where there are classes, and (B, M) numbers (float32) where "
                    f"there are none, the same M in all splits, not {tuple(y.shape)} of {y.dtype}"
                )
            if not torch.isfinite(y).all():
                raise DataError("y holds NaN or infinite values, which cannot be learnt")
            if self.classes and not 0 <= y.min() <= y.max() < len(self.classes):
                raise DataError(
                    f"y must number the {len(self.classes)} classes from 0 to {len(self.classes) - 1}; here it goes "
                    f"from {y.min()} to {y.max()}"
                )


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

    def prepare(self, raw: Batch, scaling: Scaling | None) -> Batch:
        """Return raw sequences as a model gets them: standardised, and whatever else `load` makes of them.

        Args:
            raw: Sequences as they were recorded, in float64.
            scaling: Of the training split.

        Raises:
            ValueError: If they are nothing that this dataset can have.
        """
        return raw._replace(x=(raw.x if scaling is None else scaling(raw.x)).float())
