"""Fixed orders in which the pixels of an image are shown."""

from typing import Literal

import torch
from torch import Tensor

from hippo.data.base import Batch

Permutation = Literal["none", "bit_reversal", "random"]


def pixel_order(permutation: Permutation, length: int, seed: int = 0) -> Tensor:
    """Return the indices (length,) of a permutation; `seed` matters to "random" only.

    Raises:
        ValueError: For an unknown permutation.
    """
    if permutation == "none":
        return torch.arange(length, device="cpu")
    if permutation == "bit_reversal":
        return bit_reversal(length)
    if permutation == "random":
        return torch.randperm(length, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    raise ValueError(f"unknown permutation {permutation!r}; choose none, bit_reversal or random")


def bit_reversal(length: int) -> Tensor:
    """Order 0 … 2^b − 1 by reversed binary digits, for the smallest 2^b ≥ length, and keep the indices below length."""
    bits = max(length - 1, 0).bit_length()
    indices = torch.arange(2**bits, device="cpu")
    reverse = torch.zeros_like(indices)
    for bit in range(bits):
        reverse |= (indices >> bit & 1) << (bits - 1 - bit)
    return reverse[reverse < length]


def in_order(raw: Batch, order: Tensor) -> Tensor:
    """Return the pixels of raw images, (B, L, 1), in the order in which they are shown.

    Raises:
        ValueError: If they are no such images, or have timestamps or a mask.
    """
    if raw.x.shape[1:] != (len(order), 1) or raw.lengths is not None:
        raise ValueError(f"an image is ({len(order)}, 1), its pixels row by row; these are {tuple(raw.x.shape[1:])}")
    if raw.timestamps is not None or raw.mask is not None:
        raise ValueError("an image has all its pixels, one at each step: neither timestamps nor a mask can be given")
    return raw.x[:, order]
