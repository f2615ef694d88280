"""The LegS step of `hippo.kernels.legs.legs_step` and its adjoint, compiled for the CPU where numba is installed.

Coefficients stand as (N, B): the sweep over the orders is the outer loop, and the inner one, over the batch, becomes
vector instructions. Each sample may have a step of its own. A step takes a few per cent of the time of the matrix
products around it, and keeps nothing for the gradient, being linear.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sweep(NamedTuple):
    """One LegS step, as an operator of `hippo.kernels.gated`.

    Attributes:
        order: Number of coefficients N.
        step: Relative steps dt/t (B,), float32 or float64. A step of 0 leaves the coefficients exactly as they are.
        alpha: Weight of the implicit side.
    """

    order: int
    step: Tensor
    alpha: float

    @property
    def width(self) -> int:
        return 1

    def forward(self, c: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the next coefficients (N, B) to `target`; the last row of `entering` is u."""
        _run(_advance, self, c, entering, target)

    def backward(self, grad: Tensor, entering: Tensor) -> Tensor:
        """Return the gradient of c from that of the next coefficients, and leave that of u in the last row."""
        before = torch.empty_like(grad)
        _run(_retreat, self, grad, entering, before)
        return before


def compiled() -> bool:
    """Return whether the compiled kernels are in use. Where they are not, matrix products serve, with equal results."""
    return _numba() is not None


def serves(tensor: Tensor) -> bool:
    """Return whether a compiled step can be had for tensors like this one."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64) and compiled()


@functools.cache
def _numba() -> Any:
    try:
        import numba
    except Exception:  # missing, or at odds with the NumPy or the machine it meets
        return None
    return numba


@functools.cache
def _compile(function: Callable) -> Callable:
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return _numba().njit(function, cache=True, **options)
    except RuntimeError:  # no folder to keep what is compiled in
        return _numba().njit(function, **options)


@functools.lru_cache(maxsize=16)
def _roots(order: int, dtype: torch.dtype) -> np.ndarray:
    return torch.sqrt(2 * torch.arange(order, dtype=torch.float64) + 1).to(dtype).numpy()


def _run(function: Callable, sweep: Sweep, given: Tensor, entering: Tensor, target: Tensor) -> None:
    s = _roots(sweep.order, given.dtype)
    arrays = (v.numpy() for v in (given, entering[-1], sweep.step, target))
    _compile(function)(*arrays, s.dtype.type(sweep.alpha), s)


def _advance(c, f, step, y, alpha, s):
    one = s.dtype.type(1)
    a, W = alpha * step, np.zeros_like(step)
    for n in range(len(s)):
        for b in range(len(f)):
            x = c[n, b] - f[b] if n == 0 else c[n, b]
            solve = one / (one + a[b] * s.dtype.type(n + 1))
            y[n, b] = c[n, b] - (step[b] * s.dtype.type(n + 1) * x + s[n] * W[b]) * solve
            W[b] = ((one - a[b] * s.dtype.type(n)) * W[b] + step[b] * s[n] * x) * solve


def _retreat(grad, f, step, before, alpha, s):
    one = s.dtype.type(1)
    a, V = alpha * step, np.zeros_like(step)
    for n in range(len(s) - 1, -1, -1):
        for b in range(len(f)):
            solve = one / (one + a[b] * s.dtype.type(n + 1))
            moved = (step[b] * s.dtype.type(n + 1) * grad[n, b] - step[b] * s[n] * V[b]) * solve
            V[b] = ((one - a[b] * s.dtype.type(n)) * V[b] - s[n] * grad[n, b]) * solve
            before[n, b] = grad[n, b] - moved
            if n == 0:
                f[b] = moved
