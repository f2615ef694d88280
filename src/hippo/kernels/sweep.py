"""The LegS step of `hippo.kernels.legs.legs_step` and its adjoint, compiled for the CPU where numba is installed.

Coefficients stand as (N, B): the sweep over the orders is the outer loop, and the inner one, over the batch, becomes
vector instructions. Each sample may have a step of its own. A step takes a few per cent of the time of the matrix
products around it, and keeps nothing for the gradient, being linear.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hippo.kernels import jit


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
        return 2  # u, and room for what is carried from order to order

    def forward(self, c: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the next coefficients (N, B) to `target`; the last row of `entering` is u."""
        self._run(_advance, c, entering, target)

    def backward(self, grad: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the gradient of c to `target`, from that of the next coefficients, and that of u to the last row."""
        self._run(_retreat, grad, entering, target)

    def _run(self, function: Callable, given: Tensor, entering: Tensor, target: Tensor) -> None:
        arrays = (given, target, self.step, entering[-1], entering[-2], *_numbers(self.order, given.dtype))
        batch = (given.shape[1],)
        shapes = ((self.order, *batch), (self.order, *batch), batch, batch, batch)
        if not all(
            array.is_contiguous() and array.dtype == given.dtype and array.device.type == "cpu" for array in arrays
        ) or any(array.shape != shape for array, shape in zip(arrays, shapes, strict=False)):
            raise ValueError("a compiled step needs contiguous (N, B) coefficients, (B,) steps and input, of one dtype")
        _compile(function, given.dtype)(*(array.data_ptr() for array in arrays), self.alpha, *given.shape)


@functools.cache
def _compile(function: Callable, dtype: torch.dtype) -> Callable:
    return jit.native(function, dtype, "pppppppxnn")


@functools.lru_cache(maxsize=16)
def _numbers(order: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """n and sqrt(2 n + 1) for n = 0 … N. The loops take their constants from here, so that all stays in one type."""
    with torch.inference_mode(False):
        n = torch.arange(order + 1, dtype=torch.float64, device="cpu")
        return n.to(dtype), torch.sqrt(2 * n + 1).to(dtype)


def _advance(c, y, step, u, W, k, s, alpha, order, batch):
    one = k[1]
    for b in range(batch):
        x, d = c[b], step[b]
        w = d * (x - u[b]) / (one + alpha * d)
        y[b] = x - w
        W[b] = w
    for n in range(1, order):
        low, high, root, row = k[n], k[n + 1], s[n], n * batch
        for b in range(batch):
            x, d, w = c[row + b], step[b], W[b]
            solve = one / (one + alpha * d * high)
            y[row + b] = x - (d * high * x + root * w) * solve
            W[b] = ((one - alpha * d * low) * w + d * root * x) * solve


def _retreat(grad, before, step, u, V, k, s, alpha, order, batch):
    one = k[1]
    for b in range(batch):
        V[b] = k[0]
    for down in range(1, order):
        n = int(k[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
        low, high, root, row = k[n], k[n + 1], s[n], n * batch
        for b in range(batch):
            x, d, v = grad[row + b], step[b], V[b]
            solve = one / (one + alpha * d * high)
            before[row + b] = x - d * (high * x - root * v) * solve
            V[b] = ((one - alpha * d * low) * v - root * x) * solve
    for b in range(batch):
        x, d = grad[b], step[b]
        moved = d * (x - V[b]) / (one + alpha * d)
        before[b] = x - moved
        u[b] = moved
