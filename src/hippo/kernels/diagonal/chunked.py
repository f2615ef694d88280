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
        ahead = a.conj() if a.dim() == 1 else torch.cat([torch.zeros_like(a[:, :1]), a[:, 1:].flip(1).conj()], 1)
        db = _recur(ahead.resolve_conj(), of_states.flip(1), torch.zeros_like(state)).flip(1)
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
