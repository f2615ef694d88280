"""The LegS step of `hippo.kernels.legs.naive.legs_step` and its adjoint, compiled for the CPU where numba is installed.

Coefficients stand as (N, B): the recurrence over the orders is the outer loop, and the inner one, over the batch,
becomes vector instructions. Each sample may have a step of its own. Being linear, a step keeps nothing for the
gradient.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hippo.kernels.common import native


@native.opaque
def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
    """`hippo.kernels.legs.sequence`, where `native.serves` is true of c and f."""
    step = step.to(c).expand(f.shape[1], len(f)).contiguous()
    return _Sequence.apply(c, f, step, alpha, every)  # type: ignore[return-value]


@native.opaque
def step(c: Tensor, f: Tensor, step: float, alpha: float) -> Tensor:
    """`hippo.kernels.legs.step`, where `native.serves` is true of c and f."""
    batch, order = c.shape
    shared = f.new_full((2, batch), step)  # and scratch: one allocation
    c, y = c.mT.contiguous(), c.new_empty(order, batch)
    _call(_advance, c, y, shared[0], f.contiguous(), alpha, 1, shared[1])
    return y.mT.contiguous()


class _Sequence(torch.autograd.Function):
    """The map is linear: its gradient is its adjoint, and that one's is the map again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
        ctx.save_for_backward(step)
        ctx.alpha, ctx.every = alpha, every
        (batch, length), order = f.shape, c.shape[1]
        states = c.new_empty(min(_CHUNK, length) + 1, order, batch)
        states[0] = c.mT
        outputs = c.new_empty(batch, length, order) if every else None
        for begin, samples, steps in _chunks(f, step):
            count = len(samples)
            _call(_advance, states[0], states[1], steps, samples, alpha, count)
            if outputs is not None:
                # A transposed matrix is copied much faster than a tensor of permuted dimensions.
                rows = states[1 : count + 1].flatten(0, 1).mT.contiguous()
                outputs[:, begin : begin + count] = rows.unflatten(1, (count, order))
            states[0] = states[count]
        return states[0].mT.contiguous() if outputs is None else outputs

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
        grads, carried = grad.new_zeros(min(_CHUNK, length), order, batch), grad.new_zeros(order, batch)
        if not every:
            carried.copy_(grad.mT)
        for begin, samples, steps in reversed(list(_chunks(grad_f, step))):
            count = len(samples)
            if every:
                grads[:count] = grad[:, begin : begin + count].flatten(1).mT.contiguous().unflatten(0, (count, order))
            else:
                grads.zero_()
            grads[count - 1] += carried
            _call(_retreat, grads, carried, steps, samples, alpha, count)
            grad_f[:, begin : begin + count] = samples.mT
        return carried.mT.contiguous(), grad_f

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_c, grad_f = grad_outputs
        (step,) = ctx.saved_tensors
        return sequence(grad_c, grad_f, step, ctx.alpha, ctx.every), None, None, None


_CHUNK = 64  # steps that are computed in one go, in arrays that fit the cache


def _chunks(f: Tensor, step: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield where a chunk of steps begins, and samples and steps (≤ 64, B) of it, from (B, L) and (L, B)."""
    for begin in range(0, len(step), _CHUNK):
        yield begin, f[:, begin : begin + _CHUNK].mT.contiguous(), step[begin : begin + _CHUNK]


def _call(
    loop: Callable,
    source: Tensor,
    target: Tensor,
    step: Tensor,
    f: Tensor,
    alpha: float,
    count: int,
    scratch: Tensor | None = None,
) -> None:
    """Call a loop for `count` steps, from and to (N, B) arrays, with steps and samples (count, B) and scratch (B,)."""
    order, batch = source.shape[-2:]
    scratch = torch.empty_like(f[0]) if scratch is None else scratch
    arrays = (source, target, step, f, scratch, *numbers(order, source.dtype))
    _compile(loop, source.dtype)(*(array.data_ptr() for array in arrays), alpha, order, batch, count)


@functools.cache
def _compile(loop: Callable, dtype: torch.dtype) -> Callable:
    return native.build(loop, dtype, "pppppppxnnn")


@functools.lru_cache(maxsize=16)
def numbers(order: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """n and sqrt(2 n + 1) for n = 0 … N. The loops take their constants from here, so that all stays in one type."""
    with torch.inference_mode(False):
        n = torch.arange(order + 1, dtype=torch.float64, device="cpu")
        return n.to(dtype), torch.sqrt(2 * n + 1).to(dtype)


def _advance(c, y, step, f, W, n_, s_, alpha, order, batch, length):
    """From c to y (N, B); and so on, each step from where the one before has written to what follows in memory. W (B,)
    is scratch; n_ and s_ are `numbers`."""
    one = n_[1]
    for t in range(length):
        start, now = t * order * batch, t * batch
        for b in range(batch):
            x, d = c[start + b], step[now + b]
            w = d * (x - f[now + b]) / (one + alpha * d)
            y[start + b] = x - w
            W[b] = w
        for k in range(1, order):
            n, next_n, s, row = n_[k], n_[k + 1], s_[k], start + k * batch
            for b in range(batch):
                x, d, w = c[row + b], step[now + b], W[b]
                solve = one / (one + alpha * d * next_n)
                y[row + b] = x - (d * next_n * x + s * w) * solve
                W[b] = ((one - alpha * d * n) * w + d * s * x) * solve


def _retreat(grad, before, step, grad_f, V, n_, s_, alpha, order, batch, length):
    """From the last of the gradients (L, N, B) down to the first, each step's result added to the one before it; that
    of the first goes to `before` (N, B). V (B,) is scratch."""
    one, size = n_[1], order * batch
    for back in range(length):
        start, now = (length - 1 - back) * size, (length - 1 - back) * batch
        if back:
            for i in range(size):
                grad[start + i] += before[i]
        for b in range(batch):
            V[b] = n_[0]
        for down in range(1, order):
            k = int(n_[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
            n, next_n, s, row = n_[k], n_[k + 1], s_[k], k * batch
            for b in range(batch):
                x, d, v = grad[start + row + b], step[now + b], V[b]
                solve = one / (one + alpha * d * next_n)
                before[row + b] = x - d * (next_n * x - s * v) * solve
                V[b] = ((one - alpha * d * n) * v - s * x) * solve
        for b in range(batch):
            x, d = grad[start + b], step[now + b]
            moved = d * (x - V[b]) / (one + alpha * d)
            before[b] = x - moved
            grad_f[now + b] = moved
