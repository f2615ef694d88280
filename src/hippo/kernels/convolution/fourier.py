"""A causal convolution by FFT, a few sequences at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_VALUES = 1 << 19  # of one spectrum at a time on a CPU: more leave the cache, and fresh pages then cost twice the FFTs


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """See `hippo.kernels.convolution`."""
    return _Convolution.apply(x, kernel)


class _Convolution(torch.autograd.Function):
    """Spectra are made again on the way back: what is kept of a convolution is its two arguments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        size = padded(x.shape[1] + kernel.shape[1] - 1)
        response = torch.fft.rfft(kernel, size)
        y = x.new_empty(*x.shape[:2], len(kernel))
        for some in _groups(y, size):
            y[some] = torch.fft.irfft(_spectrum(x[some], size) * response, size)[..., : x.shape[1]].mT
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor | None]:  # pyrefly: ignore[bad-override]
        (dy,), (x, kernel) = grad_outputs, ctx.saved_tensors
        size = padded(x.shape[1] + kernel.shape[1] - 1)
        backwards = torch.fft.rfft(kernel, size).conj_physical()
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        of_kernel = torch.zeros_like(backwards)
        for some in _groups(dy, size):
            spectrum = _spectrum(dy[some], size)
            if ctx.needs_input_grad[1]:
                of_kernel += (spectrum * _spectrum(x[some], size).conj()).sum(0)
            if ctx.needs_input_grad[0]:
                back = spectrum.mul_(backwards)
                back = back.sum(1, keepdim=True) if x.shape[2] == 1 else back
                dx[some] = torch.fft.irfft(back, size)[..., : x.shape[1]].mT
        dx = dx if ctx.needs_input_grad[0] else None
        return dx, torch.fft.irfft(of_kernel, size)[:, : kernel.shape[1]] if ctx.needs_input_grad[1] else None


def padded(length: int) -> int:
    """Return the least even size that is not below a length and has no prime factor above 5: FFTs of it are fast."""
    size = max(length + length % 2, 2)
    while _rest(size) > 1:
        size += 2
    return size


def _rest(size: int) -> int:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size


def _spectrum(x: Tensor, size: int) -> Tensor:
    """The spectrum along time of x (B, L, H), (B, H, size // 2 + 1)."""
    return torch.fft.rfft(x.mT.contiguous(), size)


def _groups(y: Tensor, size: int) -> list[slice]:
    """Slices of the batch of y (B, L, H) that are worked on at a time."""
    batch = len(y)
    some = max(_VALUES // (size * y.shape[2]), 1) if y.device.type == "cpu" else batch
    return [slice(begin, begin + some) for begin in range(0, batch, some)]
