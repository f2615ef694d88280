"""Sequences of any lengths, from arrays, as one padded batch."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hippo.data.base import Batch

Array = np.ndarray | Tensor
Arrays = Array | Iterable[Array]


def pack(sequences: Arrays, timestamps: Arrays | None = None, mask: Arrays | None = None) -> Batch:
    """Return sequences padded to one length with 0, their timestamps with the last one; targets are all 0.

    Args:
        sequences: Arrays (L, C), each of its own length.
        timestamps: Of each sequence (L,).
        mask: Of each sequence (L,) or (L, C), True where something was observed.

    Returns:
        x and timestamps in float64; lengths where they differ.

    Raises:
        ValueError: If these are no such arrays, or do not fit each other.
    """
    series = [_tensor(one, f"sequence {k}") for k, one in enumerate(sequences)]
    if not series:
        raise ValueError("there are no sequences")
    for k, one in enumerate(series):
        if one.dim() != 2 or 0 in one.shape or one.shape[1] != series[0].shape[1]:
            raise ValueError(
                f"each sequence must be (L, C), steps by channels, with as many channels as the others; sequence {k} "
                f"is {tuple(one.shape)}. One sequence alone is [x], and one channel x[:, None]"
            )
    lengths = torch.tensor([len(one) for one in series], device="cpu")
    same = bool((lengths == lengths[0]).all())
    clocks = masks = None
    if timestamps is not None:
        clocks = [_tensor(one, f"timestamps {k}") for k, one in enumerate(timestamps)]
        _fit(clocks, series, "timestamps", "(L,)", dims=(1,))
        longest = int(lengths.max())
        clocks = torch.stack([torch.cat([one, one[-1:].expand(longest - len(one))]) for one in clocks])
    if mask is not None:
        masks = [_tensor(one, f"mask {k}").bool() for k, one in enumerate(mask)]
        _fit(masks, series, "mask", "(L,) or (L, C)", dims=(1, 2))
        masks = pad_sequence(masks, batch_first=True)
    x = pad_sequence(series, batch_first=True)
    return Batch(x, torch.zeros(len(x), dtype=torch.int64, device="cpu"), clocks, masks, None if same else lengths)


def _tensor(values: Array, name: str) -> Tensor:
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers, not of {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))


def _fit(arrays: list[Tensor], series: list[Tensor], name: str, shape: str, dims: tuple[int, ...]) -> None:
    if len(arrays) != len(series):
        raise ValueError(f"{name} must be one array for each of the {len(series)} sequences, not {len(arrays)}")
    for k, (array, one) in enumerate(zip(arrays, series, strict=True)):
        if array.dim() not in dims or array.shape != one.shape[: array.dim()]:
            raise ValueError(
                f"{name} {k} must be {shape} of sequence {k}, {tuple(one.shape)}, not {tuple(array.shape)}"
            )
