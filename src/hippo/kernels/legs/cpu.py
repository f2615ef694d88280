"""The LegS step of `hippo.kernels.legs.naive.legs_step` and its adjoint, compiled for the CPU where numba is installed.

Coefficients stand as (N, B): the sweep over the orders is the outer loop, and the inner one, over the batch, becomes
vector instructions. Each sample may have a step of its own. A step takes a few per cent of the time of the matrix
products around it, and keeps nothing for the gradient, being linear.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hippo.kernels.common import compile as jit


@jit.opaque
def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
    """Advance LegS coefficients by a sequence of samples, each with a step of its own.

    Gradients of any order reach c and f, and need no memory, but not batched ones.

    Args:
        c: Coefficients (B, N), of which `jit.serves` is true.
        f: Samples (B, L), like c in dtype and device.
        step: Relative steps dt/t (L, B).
        alpha: Weight of the implicit side.
        every: Whether to return the coefficients after every sample, or after the last only.

    Returns:
        Coefficients (B, L, N), or (B, N).
    """
    step = step.to(c).expand(f.shape[1], len(f)).contiguous()
    return _Sequence.apply(c, f, step, alpha, every)  # type: ignore[return-value]


class _Sequence(torch.autograd.Function):
    """The map is linear: its gradient is its adjoint, and that one's is the map again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
        ctx.save_for_backward(step)
        ctx.alpha, ctx.every = alpha, every
        (batch, length), order = f.shape, c.shape[1]
        room = c.new_empty(min(_CHUNK, length) + 1, order, batch)
        room[0] = c.mT
        outputs = c.new_empty(batch, length, order) if every else None
        for begin, samples, steps in _chunks(f, step):
            count = len(samples)
            _call(_advance, room[0], room[1], steps, samples, alpha, count)
            if outputs is not None:
                # A transposed matrix is copied much faster than a tensor of permuted dimensions.
                rows = room[1 : count + 1].flatten(0, 1).mT.contiguous()
                outputs[:, begin : begin + count] = rows.unflatten(1, (count, order))
            room[0] = room[count]
        return room[0].mT.contiguous() if outputs is None else outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (step,) = ctx.saved_tensors
        return *_Adjoint.apply(*grad_outputs, step, ctx.alpha, ctx.every), None, None, None  # type: ignore[misc]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, step: Tensor, alpha: float, every: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(step)
        ctx.alpha, ctx.every = alpha, every
        batch, order, length = len(grad), grad.shape[-1], len(step)
        grad_f = grad.new_empty(batch, length)
        room, carried = grad.new_zeros(min(_CHUNK, length), order, batch), grad.new_zeros(order, batch)
        if not every:
            carried.copy_(grad.mT)
        for begin, samples, steps in reversed(list(_chunks(grad_f, step))):
            count = len(samples)
            if every:
                room[:count] = grad[:, begin : begin + count].flatten(1).mT.contiguous().unflatten(0, (count, order))
            else:
                room.zero_()
            room[count - 1] += carried
            _call(_retreat, room, carried, steps, samples, alpha, count)
            grad_f[:, begin : begin + count] = samples.mT
        return carried.mT.contiguous(), grad_f

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_c, grad_f = grad_outputs
        (step,) = ctx.saved_tensors
        return sequence(grad_c, grad_f, step, ctx.alpha, ctx.every), None, None, None


_CHUNK = 64  # steps that are computed in one go, in room that fits the cache


def _chunks(f: Tensor, step: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield where a chunk of steps begins, and samples and steps (≤ 64, B) of it, from (B, L) and (L, B)."""
    for begin in range(0, len(step), _CHUNK):
        yield begin, f[:, begin : begin + _CHUNK].mT.contiguous(), step[begin : begin + _CHUNK]


def _call(function: Callable, given: Tensor, target: Tensor, step: Tensor, u: Tensor, alpha: float, count: int) -> None:
    order, batch = given.shape[-2:]
    arrays = (given, target, step, u, torch.empty_like(u[0]), *numbers(order, given.dtype))
    _compile(function, given.dtype)(*(array.data_ptr() for array in arrays), alpha, order, batch, count)


@functools.cache
def _compile(function: Callable, dtype: torch.dtype) -> Callable:
    return jit.native(function, dtype, "pppppppxnnn")


@functools.lru_cache(maxsize=16)
def numbers(order: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """n and sqrt(2 n + 1) for n = 0 … N. The loops take their constants from here, so that all stays in one type."""
    with torch.inference_mode(False):
        n = torch.arange(order + 1, dtype=torch.float64, device="cpu")
        return n.to(dtype), torch.sqrt(2 * n + 1).to(dtype)


def _advance(c, y, step, u, W, k, s, alpha, order, batch, length):
    """From c to y (N, B); and so on, each step from where the one before has written to what follows in memory."""
    one = k[1]
    for t in range(length):
        start, now = t * order * batch, t * batch
        for b in range(batch):
            x, d = c[start + b], step[now + b]
            w = d * (x - u[now + b]) / (one + alpha * d)
            y[start + b] = x - w
            W[b] = w
        for n in range(1, order):
            low, high, root, row = k[n], k[n + 1], s[n], start + n * batch
            for b in range(batch):
                x, d, w = c[row + b], step[now + b], W[b]
                solve = one / (one + alpha * d * high)
                y[row + b] = x - (d * high * x + root * w) * solve
                W[b] = ((one - alpha * d * low) * w + d * root * x) * solve


def _retreat(grad, before, step, u, V, k, s, alpha, order, batch, length):
    """From the last of the gradients (L, N, B) down to the first, each step's result added to the one before it."""
    one, size = k[1], order * batch
    for back in range(length):
        start, now = (length - 1 - back) * size, (length - 1 - back) * batch
        if back:
            for i in range(size):
                grad[start + i] += before[i]
        for b in range(batch):
            V[b] = k[0]
        for down in range(1, order):
            n = int(k[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
            low, high, root, row = k[n], k[n + 1], s[n], n * batch
            for b in range(batch):
                x, d, v = grad[start + row + b], step[now + b], V[b]
                solve = one / (one + alpha * d * high)
                before[row + b] = x - d * (high * x - root * v) * solve
                V[b] = ((one - alpha * d * low) * v - root * x) * solve
        for b in range(batch):
            x, d = grad[start + b], step[now + b]
            moved = d * (x - V[b]) / (one + alpha * d)
            before[b] = x - moved
            u[now + b] = moved
