"""Labelled sequences in a file of one's own: NPZ, CSV, or the .ts format."""

import csv
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hippo.data.base import Batch, DataError
from hippo.data.pack import pack
from hippo.data.ts import read_ts

_NPZ = {"x", "y", "lengths", "timestamps", "mask"}


class Labelled(NamedTuple):
    """Raw sequences, and what is to be known of each.

    Attributes:
        raw: The sequences, in float64; its targets are 0.
        labels: (B,) of text, names of classes; or (B, M) of float64, numbers.
    """

    raw: Batch
    labels: np.ndarray


def read_labelled(path: Path, targets: str | None = None) -> Labelled:
    """Read labelled sequences.

    - NPZ: `x` (B, L, C) or (B, L), `y`, and where there are any `lengths` (B,), `timestamps` (B, L) and `mask` (B, L)
      or (B, L, C). `y` (B,) of whole numbers or text is classes; (B,) or (B, M) of floating-point numbers is numbers.
    - CSV: a line for each step, in order. The column `sequence` names the sequence, `y` is the same in all its lines,
      and `timestamp` is there if there are timestamps; every other column is a channel, and an empty cell in it was
      not observed. If every `y` is a number and some are not whole, they are numbers, else classes.
    - .ts: `hippo.data.ts`; classes.

    Args:
        path: The file.
        targets: "classes" or "numbers", where `y` is not to be taken as it looks.

    Raises:
        DataError: If the file is not there or not as described; the message names what is wrong.
    """
    readers = {".npz": _npz, ".csv": _csv, ".ts": _ts}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is no file of sequences: its name has to end in {', '.join(readers)}")
    try:
        raw, y = readers[path.suffix.lower()](path)
        return Labelled(_checked(raw), _labels(y, targets, len(raw.x)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (ValueError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}") from error


def _npz(path: Path) -> tuple[Batch, np.ndarray]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array; write it by numpy.savez(file, x=…, y=…)")
    with loaded as archive:
        if missing := {"x", "y"} - set(archive.files):
            raise ValueError(f"it has no array {min(missing)}, but {', '.join(archive.files) or 'none at all'}")
        if unknown := sorted(set(archive.files) - _NPZ):
            raise ValueError(f"there is no use for the array {unknown[0]}; there is for {', '.join(sorted(_NPZ))}")
        arrays = {}
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError as error:  # objects, which would have to be unpickled
                raise ValueError(
                    f"{name} cannot be read ({error}). Sequences of different lengths are padded to one array, and "
                    "lengths says how long they are"
                ) from error
    x = arrays["x"]
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be (B, L, C), or (B, L) with one channel, none of them 0; it is {arrays['x'].shape}")
    shapes = {"lengths": [x.shape[:1]], "timestamps": [x.shape[:2]], "mask": [x.shape[:2], x.shape]}
    for name, fitting in shapes.items():
        if name in arrays and arrays[name].shape not in fitting:
            wanted = " or ".join(map(str, fitting))
            raise ValueError(f"{name} must be {wanted} to match x {x.shape}; it is {arrays[name].shape}")
    lengths = arrays.get("lengths", np.full(len(x), x.shape[1]))
    if lengths.dtype.kind not in "iu" or not 1 <= lengths.min() <= lengths.max() <= x.shape[1]:
        raise ValueError(f"lengths must be whole numbers from 1 to {x.shape[1]}")
    if "mask" in arrays and arrays["mask"].dtype != bool:
        raise ValueError(f"mask must be of booleans, True where something was observed; it is {arrays['mask'].dtype}")

    def cut(name: str) -> list[np.ndarray] | None:
        return [one[:n] for one, n in zip(arrays[name], lengths, strict=True)] if name in arrays else None

    series = [one[:n] for one, n in zip(x, lengths, strict=True)]
    return pack(series, cut("timestamps"), cut("mask")), arrays["y"]


def _csv(path: Path) -> tuple[Batch, np.ndarray]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        for needed in ("sequence", "y"):
            if needed not in columns:
                raise ValueError(f"it has no column {needed}, but {', '.join(columns) or 'none at all'}")
        if len(set(columns)) < len(columns) or "" in columns:
            raise ValueError("every column needs a name of its own")
        channels = [name for name in columns if name not in ("sequence", "y", "timestamp")]
        series: dict[str, list[list[float]]] = {}
        clocks: dict[str, list[float]] = {}
        labels: dict[str, str] = {}
        for line in reader:
            if None in line or None in line.values():
                raise ValueError(f"line {reader.line_num} has not as many cells as there are columns")
            name, label = line["sequence"].strip(), line["y"].strip()
            if labels.setdefault(name, label) != label or not label:
                raise ValueError(f"line {reader.line_num}: y is {label!r}, and was {labels[name]!r} of sequence {name}")
            values = [_number(line[channel], channel, reader.line_num, empty=True) for channel in channels]
            series.setdefault(name, []).append(values)
            if "timestamp" in columns:
                clocks.setdefault(name, []).append(_number(line["timestamp"], "timestamp", reader.line_num))
    if not channels or not series:
        raise ValueError(
            "it has no lines" if channels else "it has no channel, a column besides sequence, timestamp, y"
        )
    arrays = [np.array(one) for one in series.values()]
    observed = [~np.isnan(one) for one in arrays]
    whole = all((one == one[:, :1]).all() for one in observed)  # each step was observed as a whole, or not
    mask = None if all(one.all() for one in observed) else [one[:, 0] if whole else one for one in observed]
    clock = [np.array(one) for one in clocks.values()] if clocks else None
    return pack([np.nan_to_num(one) for one in arrays], clock, mask), np.array(list(labels.values()))


def _number(cell: str, column: str, line: int, empty: bool = False) -> float:
    if empty and not cell.strip():
        return np.nan
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(
            f"line {line}: {column} is {cell.strip()!r}, which is no finite number; "
            "a cell of a channel is left empty where nothing was observed"
        )
    return value


def _ts(path: Path) -> tuple[Batch, np.ndarray]:
    series, labels = read_ts(path)
    return pack(series), np.array(labels)


def _checked(raw: Batch) -> Batch:
    """Raise ValueError if sequences are not finite where they were observed, or their time runs backwards."""
    steps = np.arange(raw.x.shape[1])
    for k, one in enumerate(raw.x.numpy()):
        valid = steps < (raw.x.shape[1] if raw.lengths is None else int(raw.lengths[k]))
        observed = valid[:, None] if raw.mask is None else raw.mask[k].numpy().reshape(len(steps), -1) & valid[:, None]
        if not observed.any():
            raise ValueError(f"nothing was observed of sequence {k}; leave it out")
        wrong = ~np.isfinite(one) & observed
        if wrong.any():
            step, channel = np.argwhere(wrong)[0]
            raise ValueError(
                f"sequence {k} is {one[step, channel]} at step {step}, channel {channel}; say in mask what was not "
                "observed, or fill it in"
            )
        if raw.timestamps is not None:
            clock = raw.timestamps[k].numpy()[valid]
            if not np.isfinite(clock).all() or (np.diff(clock) < 0).any():
                raise ValueError(f"the timestamps of sequence {k} decrease, or are not finite; sort its steps by time")
    return raw


def _labels(y: np.ndarray, targets: str | None, count: int) -> np.ndarray:
    """Return names of classes (B,), or numbers (B, M)."""
    if y.ndim not in (1, 2) or len(y) != count or 0 in y.shape:
        raise ValueError(f"y must be (B,), or (B, M) numbers, with B = {count}; it is {y.shape}")
    if y.dtype.kind == "S":
        y = np.char.decode(y)
    if targets is None:
        text = y.dtype.kind == "U" and not (_all_numbers(y) and np.mod(y.astype(np.float64), 1).any())
        targets = "classes" if text or y.dtype.kind in "iub" else "numbers"
    if targets == "classes":
        if y.ndim != 1 or (y.dtype.kind == "f" and np.any(np.mod(y, 1) != 0)):
            raise ValueError(f"y must be (B,) whole numbers or text to be classes; it is {y.shape} of {y.dtype}")
        return (y.astype(np.int64) if y.dtype.kind == "f" else y).astype(str)
    try:
        numbers = y.astype(np.float64).reshape(count, -1)
    except (ValueError, TypeError):
        raise ValueError(f"y is {y.dtype}, which are no numbers") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"y of sequence {np.argwhere(~np.isfinite(numbers))[0, 0]} is no finite number")
    return numbers


def _all_numbers(y: np.ndarray) -> bool:
    try:
        return bool(np.isfinite(y.astype(np.float64)).all())
    except ValueError:
        return False
