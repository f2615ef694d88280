"""A recurrence whose step is another at each sample, as loops that numba compiles: a state stays in the cache from the
first sample to the last, and no operation of torch is called for each.

Each innermost loop writes one row only: of loops that write several, LLVM makes no vector instructions, since it would
have to find out before each whether too many arrays overlap.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hippo.kernels.common import loops

_loop = partial(loops.loop, fastmath={"contract", "reassoc", "nsz"})  # a sum in vectors is one in another order


class _System(NamedTuple):
    """Arrays of `hippo.kernels.stepwise`, of complex numbers the real parts and then the imaginary ones (..., 2, M), so
    that loops over M are vector instructions; or their gradients, P's for each feature."""

    R: Any
    E: Any
    K: Any
    P: Any
    C: Any


def run(
    x: Tensor, state: Tensor, which: Tensor, R: Tensor, E: Tensor, K: Tensor, P: Tensor, C: Tensor, less: bool
) -> tuple[Tensor, Tensor]:
    """See `hippo.kernels.stepwise`."""
    y, after = _Run.apply(less, x, which, *(torch.stack([z.real, z.imag], dim=-2) for z in (state, R, E, K, P, C)))  # type: ignore[not-iterable]
    return y, torch.complex(*after.unbind(-2))


class _Run(torch.autograd.Function):
    """States are made again on the way back, those of one sequence and feature at a time."""

    @staticmethod
    def forward(ctx: Any, less: bool, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, which, state, *system = (argument.contiguous() for argument in arguments)
        ctx.save_for_backward(x, which, state, *system)
        ctx.less = less
        y, after = torch.empty_like(x), state.clone()
        loops.share(_forward, x, after, which, _System(*system), y, less, shares=_shares(x.shape[2]))
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        of_y, of_after = grad_outputs
        x, which, state, *parts = ctx.saved_tensors
        system, of = _System(*parts), _System(*(torch.zeros_like(part) for part in parts))
        of = of._replace(P=system.P.new_zeros(x.shape[2], *system.P.shape))  # since threads share the others
        of_x, of_state = torch.zeros_like(x), of_after.clone(memory_format=torch.contiguous_format)
        arrays = x, state, which, system, of_y, of_state, of_x, of
        loops.share(_backward, *arrays, ctx.less, shares=_shares(x.shape[2]))
        return None, of_x, None, of_state, *of._replace(P=of.P.sum(0))


def _shares(features: int) -> list[tuple[int, int]]:
    """Return the first feature of each thread, and the one after its last."""
    return loops.split(features, min(torch.get_num_threads(), features))


@_loop
def _advance(u, s, R, E, K, P, w, along, less):
    """Turn a state (2, M) into the next one, by w (2, M) and P* w (r,), which are left behind."""
    two = s.dtype.type(2)
    for m in range(s.shape[1]):
        w[0, m] = R[0, m] * s[0, m] - R[1, m] * s[1, m] + E[0, m] * u
    for m in range(s.shape[1]):
        w[1, m] = R[0, m] * s[1, m] + R[1, m] * s[0, m] + E[1, m] * u
    for i in range(len(P)):
        total = s.dtype.type(0)
        for m in range(s.shape[1]):
            total += P[i, 0, m] * w[0, m] + P[i, 1, m] * w[1, m]
        along[i] = two * total
    sign = s.dtype.type(1 if less else 0)
    for k in range(2):
        for m in range(s.shape[1]):
            s[k, m] = w[k, m] - sign * s[k, m]
    for i in range(len(P)):
        for k in range(2):
            for m in range(s.shape[1]):
                s[k, m] -= along[i] * K[i, k, m]


@_loop
def _forward(x, state, which, system, y, less, begin, end):
    R, E, K, P, C = system
    batch, length, _ = x.shape
    w, along = np.empty_like(state[0, 0]), np.empty(len(P), x.dtype)
    two = x.dtype.type(2)
    for h in range(begin, end):
        for b in range(batch):
            s = state[b, h]
            for t in range(length):
                j = which[b, t]
                _advance(x[b, t, h], s, R[j, h], E[j, h], K[j, h], P, w, along, less)
                out = x.dtype.type(0)
                for m in range(s.shape[1]):
                    out += C[h, 0, m] * s[0, m] - C[h, 1, m] * s[1, m]
                y[b, t, h] = two * out


@_loop
def _backward(x, state, which, system, of_y, of_state, of_x, of, less, begin, end):
    """Its parts are no functions of their own: calls with so many arrays make the whole 1.1 to 1.3 times as slow."""
    R, E, K, P, C = system
    of_R, of_E, of_K, of_P, of_C = of
    batch, length, _ = x.shape
    size = state.shape[3]
    states, ws = np.empty((length + 1, 2, size), x.dtype), np.empty((length, 2, size), x.dtype)
    alongs, g_w = np.empty((length, len(P)), x.dtype), np.empty((2, size), x.dtype)
    two = x.dtype.type(2)
    for h in range(begin, end):
        for b in range(batch):
            states[0] = state[b, h]
            for t in range(length):
                j = which[b, t]
                states[t + 1] = states[t]
                _advance(x[b, t, h], states[t + 1], R[j, h], E[j, h], K[j, h], P, ws[t], alongs[t], less)
            g = of_state[b, h]
            for t in range(length - 1, -1, -1):
                j, s, w, after = which[b, t], states[t], ws[t], states[t + 1]
                from_y = two * of_y[b, t, h]
                for m in range(size):
                    g[0, m] += from_y * C[h, 0, m]
                for m in range(size):
                    g[1, m] -= from_y * C[h, 1, m]
                for m in range(size):
                    of_C[h, 0, m] += from_y * after[0, m]
                for m in range(size):
                    of_C[h, 1, m] -= from_y * after[1, m]
                for k in range(2):
                    for m in range(size):
                        g_w[k, m] = g[k, m]
                for i in range(len(P)):
                    total = x.dtype.type(0)
                    along = alongs[t, i]
                    for k in range(2):
                        for m in range(size):
                            total -= g[k, m] * K[j, h, i, k, m]
                        for m in range(size):
                            of_K[j, h, i, k, m] -= along * g[k, m]
                    total *= two
                    for k in range(2):
                        for m in range(size):
                            g_w[k, m] += total * P[i, k, m]
                        for m in range(size):
                            of_P[h, i, k, m] += total * w[k, m]
                u, out = x[b, t, h], x.dtype.type(0)
                for m in range(size):
                    of_R[j, h, 0, m] += s[0, m] * g_w[0, m] + s[1, m] * g_w[1, m]
                for m in range(size):
                    of_R[j, h, 1, m] += s[0, m] * g_w[1, m] - s[1, m] * g_w[0, m]
                for k in range(2):
                    for m in range(size):
                        of_E[j, h, k, m] += u * g_w[k, m]
                    for m in range(size):
                        out += E[j, h, k, m] * g_w[k, m]
                of_x[b, t, h] = out
                sign = x.dtype.type(1 if less else 0)
                for m in range(size):
                    g[0, m] = R[j, h, 0, m] * g_w[0, m] + R[j, h, 1, m] * g_w[1, m] - sign * g[0, m]
                for m in range(size):
                    g[1, m] = R[j, h, 0, m] * g_w[1, m] - R[j, h, 1, m] * g_w[0, m] - sign * g[1, m]
