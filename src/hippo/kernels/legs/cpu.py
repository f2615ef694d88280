"""The LegS step of `hippo.kernels.legs.naive.legs_step` and its adjoint, compiled for the CPU.

Coefficients stand as (N, B): the recurrence over the orders is the outer loop, and the inner one, over the batch,
becomes vector instructions. Each sample may have a step of its own. Being linear, a step keeps nothing for the
gradient.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hippo.kernels.common import native
from hippo.kernels.common.loops import add, copy, loop


class Recursion(NamedTuple):
    """What the steps of N orders have in common, all of one dtype, so that a loop stays in it.

    Attributes:
        alpha: Weight of the implicit side.
        n: 0 … N, (N + 1,).
        high: n + 1 + p, the diagonal of A, (N,).
        root: √(2n + 1 + p), (N,).
    """

    alpha: Any
    n: Any
    high: Any
    root: Any


@functools.lru_cache(maxsize=16)
def recursion(order: int, alpha: float, dtype: torch.dtype, power: float = 0.0) -> Recursion:
    """Return the recursion over N orders, as NumPy's arrays."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    n = np.arange(order + 1, dtype=np.float64)
    high, root = n[:-1] + (1 + power), np.sqrt(2 * n[:-1] + (1 + power))
    return Recursion(kind(alpha), n.astype(kind), high.astype(kind), root.astype(kind))


@native.opaque
def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float = 0.0) -> Tensor:
    """`hippo.kernels.legs.sequence`, where `native.serves` is true of c and f."""
    step = step.to(c).expand(f.shape[1], len(f)).contiguous()
    return _Sequence.apply(c, f, step, alpha, every, power)  # type: ignore[return-value]


@native.opaque
def step(c: Tensor, f: Tensor, step: float, alpha: float, power: float = 0.0) -> Tensor:
    """`hippo.kernels.legs.step`, where `native.serves` is true of c and f. The last order has the sum of all others, so
    that one number tells of them all; a look by torch's operations would double the time of a step."""
    y, samples = (v.numpy().T.copy() for v in (c, f))  # NumPy's calls take a third of the time of torch's
    if not math.isfinite(_step(y, samples, step, recursion(c.shape[1], alpha, c.dtype, power))):
        raise OverflowError(f"coefficients are not finite in {c.dtype}")
    return torch.from_numpy(y.T.copy())


class _Sequence(torch.autograd.Function):
    """The map is linear: its gradient is its adjoint, and that one's is the map again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float) -> Tensor:
        ctx.save_for_backward(step)
        ctx.rule = alpha, every, power
        (batch, length), order = f.shape, c.shape[1]
        states = c.new_empty(min(_CHUNK, length) + 1, order, batch)
        states[0] = c.mT
        outputs = c.new_empty(batch, length, order) if every else None
        rule = recursion(order, alpha, c.dtype, power)
        for begin, samples, steps in _chunks(f, step):
            count = len(samples)
            _advance(states.numpy(), samples.numpy(), steps.numpy(), rule, every)
            if outputs is not None:
                # A transposed matrix is copied much faster than a tensor of permuted dimensions.
                rows = states[1 : count + 1].flatten(0, 1).mT.contiguous()
                outputs[:, begin : begin + count] = rows.unflatten(1, (count, order))
                states[0] = states[count]
        return states[0].mT.contiguous() if outputs is None else outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (step,) = ctx.saved_tensors
        return *_Adjoint.apply(*grad_outputs, step, *ctx.rule), None, None, None, None  # type: ignore[misc]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, step: Tensor, alpha: float, every: bool, power: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(step)
        ctx.rule = alpha, every, power
        batch, order, length = len(grad), grad.shape[-1], len(step)
        grad_f = grad.new_empty(batch, length)
        carried = grad.new_zeros(order, batch) if every else grad.mT.clone(memory_format=torch.contiguous_format)
        grads, rule = grad.new_empty(0, order, batch), recursion(order, alpha, grad.dtype, power)
        for begin, samples, steps in reversed(list(_chunks(grad_f, step))):
            count = len(samples)
            if every:
                grads = grad[:, begin : begin + count].flatten(1).mT.contiguous().unflatten(0, (count, order))
            _retreat(carried.numpy(), grads.numpy(), samples.numpy(), steps.numpy(), rule)
            grad_f[:, begin : begin + count] = samples.mT
        return carried.mT.contiguous(), grad_f

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_c, grad_f = grad_outputs
        (step,) = ctx.saved_tensors
        return sequence(grad_c, grad_f, step, *ctx.rule), None, None, None, None


_CHUNK = 64  # steps that are computed in one go, in arrays that fit the cache


def _chunks(f: Tensor, step: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield where a chunk of steps begins, and samples and steps (≤ 64, B) of it, from (B, L) and (L, B)."""
    for begin in range(0, len(step), _CHUNK):
        yield begin, f.detach()[:, begin : begin + _CHUNK].mT.contiguous(), step[begin : begin + _CHUNK]


@loop
def _step(c, f, step, recursion):
    """Take c (N, B) over one sample f (B,) with the same relative step for all, in place, and return the sum of what
    the last order is."""
    steps, carried = np.empty_like(f), np.empty_like(f)
    steps[:] = step
    advance(c, f, steps, recursion, carried)
    return c[-1].sum()


@loop
def _advance(states, f, step, recursion, every):
    """Fill states (≥ L + 1, N, B) after the first, where every one is wanted, else take the first to the last, by
    samples and steps (L, B)."""
    carried, now = np.empty_like(f[0]), 0
    for t in range(len(f)):
        if every:
            now = t + 1
            copy(states[t].reshape(-1), states[now].reshape(-1))
        advance(states[now], f[t], step[t], recursion, carried)


@loop
def _retreat(grad, grads, grad_f, step, recursion):
    """Take the gradient (N, B) of the last state to that of the state before the first step. What comes to each of L
    states from outside is grads (L, N, B), if there are any; the gradients of samples go to grad_f (L, B)."""
    carried = np.empty_like(grad_f[0])
    for t in range(len(grad_f) - 1, -1, -1):
        if len(grads) > 0:
            add(grad.reshape(-1), grads[t].reshape(-1))
        retreat(grad, grad_f[t], step[t], recursion, carried)


@loop
def advance(c, f, step, recursion, carried):
    """Take c (N, B) over one sample f (B,) with relative steps (B,), in place; `carried` (B,) is scratch, for W_n."""
    alpha, ns, highs, roots = recursion.alpha, recursion.n, recursion.high, recursion.root
    one, high, root, y = ns[1], highs[0], roots[0], c[0]
    for b in range(len(y)):
        d = step[b]
        w = d * (y[b] - f[b]) / (one + alpha * high * d)
        y[b] -= high * w
        carried[b] = root * w
    for n in range(1, len(c)):
        low, high, root, y = ns[n], highs[n], roots[n], c[n]
        for b in range(len(y)):
            before, d, w = y[b], step[b], carried[b]
            solve = one / (one + alpha * d * high)
            y[b] = before - (d * high * before + root * w) * solve
            carried[b] = ((one - alpha * d * low) * w + d * root * before) * solve


@loop
def retreat(grad, grad_f, step, recursion, carried):
    """The adjoint of `advance`: grad (N, B) ← Āᵀ grad, and grad_f (B,) ← B̄ᵀ of what grad was."""
    alpha, ns, highs, roots = recursion.alpha, recursion.n, recursion.high, recursion.root
    one, order = ns[1], len(grad)
    carried[:] = 0
    for down in range(1, order):
        n = int(ns[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
        low, high, root, row = ns[n], highs[n], roots[n], grad[n]
        for b in range(len(row)):
            x, d, v = row[b], step[b], carried[b]
            solve = one / (one + alpha * d * high)
            row[b] = x - d * (high * x - root * v) * solve
            carried[b] = ((one - alpha * d * low) * v - root * x) * solve
    high, root, row = highs[0], roots[0], grad[0]
    for b in range(len(row)):
        x, d = row[b], step[b]
        moved = d * (high * x - root * carried[b]) / (one + alpha * high * d)
        row[b] = x - moved
        grad_f[b] = moved
