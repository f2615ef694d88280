"""A diagonal linear recurrence in chunks of √L steps: all chunks side by side, then what one hands to the next."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scan(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """See `hippo.kernels.diagonal`."""
    return _Scan.apply(a, b, state)


class _Scan(torch.autograd.Function):
    """On the way back the same recurrence runs from the end; only states and factors are kept."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, state: Tensor) -> Tensor:
        states = _recur(a, b, state)
        ctx.save_for_backward(a, states, state)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, Tensor, Tensor | None]:  # pyrefly: ignore[bad-override]
        (of_states,), (a, states, state) = grad_outputs, ctx.saved_tensors
        db = _recur_back(a.conj().resolve_conj(), of_states)
        da = None
        if ctx.needs_input_grad[0] and a.dim() == 3:
            da = torch.empty_like(db)
            torch.mul(db[:, :1], state.unsqueeze(1).conj(), out=da[:, :1])
            torch.mul(db[:, 1:], states[:, :-1].conj(), out=da[:, 1:])
        elif ctx.needs_input_grad[0]:
            da = (db[:, 0] * state.conj()).sum(0)
            for of_one, before in zip(db[:, 1:], states[:, :-1], strict=True):  # all at once would not fit the cache
                da += (of_one * before.conj()).sum(0)
        first = a if a.dim() == 1 else a[:, 0]
        return da, db, first.conj() * db[:, 0] if ctx.needs_input_grad[2] else None


def _recur(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    length = b.shape[1]
    chunk = math.isqrt(length - 1) + 1
    varies = a.dim() == 3
    states = torch.empty_like(b, memory_format=torch.contiguous_format)
    reach = torch.empty_like(states) if varies else a.new_empty(chunk, len(a))  # what each step's chunk does to a state
    at = (lambda t: a[:, t::chunk]) if varies else (lambda t: a)
    states[:, ::chunk] = b[:, ::chunk]
    torch.addcmul(b[:, 0], a[:, 0] if varies else a, state, out=states[:, 0])
    (reach[:, ::chunk] if varies else reach[0]).copy_(at(0))
    for t in range(1, chunk):
        later = b[:, t::chunk]
        torch.addcmul(later, at(t), states[:, t - 1 :: chunk][:, : later.shape[1]], out=states[:, t::chunk])
        if varies:
            torch.mul(at(t), reach[:, t - 1 :: chunk][:, : later.shape[1]], out=reach[:, t::chunk])
        else:
            torch.mul(a, reach[t - 1], out=reach[t])
    for begin in range(chunk, length, chunk):
        part = states[:, begin : begin + chunk]
        of_part = reach[:, begin : begin + chunk] if varies else reach[: part.shape[1]]
        part.addcmul_(of_part, states[:, begin - 1 : begin])
    return states


def _recur_back(a: Tensor, b: Tensor) -> Tensor:
    """Return x_t = a_{t+1} ⊙ x_{t+1} + b_t, from the last step to the first. Turned round, `_recur` would give the same
    in two and a half times as long: PyTorch has no negative strides, and copies."""
    length = b.shape[1]
    chunk = math.isqrt(length - 1) + 1
    varies = a.dim() == 3
    x = torch.empty_like(b, memory_format=torch.contiguous_format)
    reach = torch.empty_like(x) if varies else a.new_empty(chunk, len(a))  # what a chunk does to the next one's
    x[:, chunk - 1 :: chunk] = b[:, chunk - 1 :: chunk]
    x[:, -1] = b[:, -1]  # of the last chunk, which may be a part of one
    last = (length - 1) // chunk * chunk
    if varies:
        reach[:, chunk - 1 : last : chunk] = a[:, chunk::chunk]
    else:
        reach[-1] = a
    for t in range(chunk - 2, -1, -1):
        later = x[:, t + 1 :: chunk]
        here, now = (v[:, t::chunk][:, : later.shape[1]] for v in (b, x))
        factor = a[:, t + 1 :: chunk] if varies else a
        torch.addcmul(here, factor, later, out=now)
        if varies:
            whole = last // chunk  # of chunks that another follows
            torch.mul(factor[:, :whole], reach[:, t + 1 : last : chunk], out=reach[:, t:last:chunk])
        else:
            torch.mul(a, reach[t + 1], out=reach[t])
    for begin in range(last - chunk, -1, -chunk):
        of_part = reach[:, begin : begin + chunk] if varies else reach
        x[:, begin : begin + chunk].addcmul_(of_part, x[:, begin + chunk : begin + chunk + 1])
    return x
