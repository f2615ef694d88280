"""A time-invariant memory as a convolution with its kernel, K_k = Ā^k B̄."""

import torch
from torch import Tensor


def convolution(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """By FFT. Rounding is relative to the largest coefficient of the whole signal."""
    length = f.shape[-1]
    kernel = powers(A, B, length)
    size = 1 << (2 * length - 1).bit_length()
    spectrum = torch.fft.rfft(f, size).unsqueeze(-1) * torch.fft.rfft(kernel, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=-2)[..., :length, :] + powers(A, c @ A.mT, length)


def powers(A: Tensor, v: Tensor, count: int) -> Tensor:
    """Return v, A v, A² v, …, A^(count−1) v for vectors v (..., N), as (..., count, N), in log₂ count products."""
    found = v.unsqueeze(-2)
    while found.shape[-2] < count:
        found = torch.cat([found, found @ A.mT], dim=-2)
        A = A @ A
    return found[..., :count, :]
