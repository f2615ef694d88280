"""Memories of all the past and their readouts in tensor operations, √L samples at a time."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hippo.kernels import legs
from hippo.kernels.scaled.numbers import numbers

_NUMBERS = 2**20  # that are computed in float64 in one go


def read(x: Tensor, state: Tensor, step: Tensor, C: Tensor, power: float, alpha: float | None) -> tuple[Tensor, Tensor]:
    """`hippo.kernels.scaled.read`. Samples are remembered again on the way back, and of the coefficients between only
    those at the ends are kept."""
    outputs, chunk = [], math.isqrt(x.shape[1] - 1) + 1
    for some, steps in zip(x.split(chunk, 1), step.split(chunk), strict=True):
        arguments = some, state, steps, C, power, alpha
        y, state = checkpoint(_read, *arguments, use_reentrant=False) if torch.is_grad_enabled() else _read(*arguments)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _read(
    x: Tensor, state: Tensor, step: Tensor, C: Tensor, power: float, alpha: float | None
) -> tuple[Tensor, Tensor]:
    c = sequence(x, state, step, power, alpha)
    if C.dim() == 2:
        return torch.einsum("blhn,hn->blh", c, C), c[:, -1].clone()
    return torch.nn.functional.linear(c.flatten(2), C.flatten(1)), c[:, -1].clone()


def sequence(x: Tensor, state: Tensor, step: Tensor, power: float, alpha: float | None) -> Tensor:
    """Return the coefficients after every sample, (B, L, H, N); arguments are those of `hippo.kernels.scaled.read`."""
    (batch, _, features), order = x.shape, state.shape[-1]
    if alpha is not None:
        each = step.expand(-1, batch).repeat_interleave(features, dim=1) if step.shape[1] > 1 else step
        c = legs.sequence(state.flatten(0, 1), x.mT.flatten(0, 1), each, alpha, every=True, power=power)
        return c.unflatten(0, (batch, features)).transpose(1, 2)
    states = []
    for x_k, some in zip(x.unbind(1), step, strict=True):
        change = (dilation(order, some, power) - torch.eye(order, dtype=step.dtype, device=step.device)).to(x)
        past = state - torch.nn.functional.pad(x_k.unsqueeze(-1), (0, order - 1))  # a constant is a fixed point
        state = state + past @ change.mT
        states.append(state)
    return torch.stack(states, dim=1)


def ends(step: Tensor) -> Tensor:
    """Return when the first of steps (L, ...) begins and when each of them ends, (L + 1, ...), as shares of the time
    at the end of the last."""
    return torch.cat([torch.ones_like(step[:1]), (1 - step).flip(0).cumprod(0)]).flip(0)


def held(x: Tensor, ends: Tensor, order: int, power: float) -> Tensor:
    """Return the coefficients (B, H, N) of samples x (B, L, H) that were held between `ends` (L + 1, B) or (L + 1, 1).

    A sample from s t to s' t contributes x · ∫ p_n ω from s to s'. So no coefficients between are needed, and gradients
    keep L·N numbers, or B·L·N where sequences have times of their own.
    """
    (batch, _, features), total = x.shape, torch.zeros((), dtype=x.dtype, device=x.device)
    together = max(1, _NUMBERS // (ends.shape[1] * order))
    lower = integrals(order, ends[:1], power)
    for some, later in zip(x.split(together, 1), ends[1:].split(together), strict=True):
        upper = integrals(order, later, power)
        weights = (upper - torch.cat([lower, upper[:-1]])).to(x)
        if ends.shape[1] > 1:
            total = total + torch.einsum("blh,lbn->bhn", some, weights)
        else:
            total = total + (some.mT.flatten(0, 1) @ weights.squeeze(1)).view(batch, features, order)
        lower = upper[-1:]
    return total


def integrals(order: int, s: Tensor, power: float) -> Tensor:
    """Return ∫₀ˢ p_n ω for s (...) within [0, 1], as (..., N): the first column of s^A.

    For n ≥ 1 it is −√((2n + 1 + a)(1 + a)) s^{1+a} (1 − s) P_{n−1}^(1,a+1)(2s − 1) / n (DLMF 18.9.16 with α = 0), and
    Jacobi's polynomials follow from their recurrence (DLMF 18.9.2).
    """
    x, b, first = 2 * s - 1, power + 1, s ** (1 + power)
    scale, before, value, values = first * (1 - s), torch.zeros_like(s), torch.ones_like(s), [first]
    for n in range(1, order):
        values.append(value * scale * (-math.sqrt((2 * n + b) * b) / n))
        c = 2 * n + 1 + b
        slope, shift, back = c * (c - 1) * (c - 2), (c - 1) * (1 - b * b), 2 * n * (n + b - 1) * c
        before, value = value, ((slope * x + shift) * value - back * before) / (2 * n * (n + 1 + b) * (c - 2))
    return torch.stack(values, dim=-1)


def dilation(order: int, step: Tensor, power: float = 0.0) -> Tensor:
    """Return (1 − dt/t)^A, what an exact step does to a memory of the constant 0: (..., N, N) for steps dt/t (...).

    A memory of [0, rt] that is read as one of [0, t] is the same polynomial, dilated: row n is r^{1+a} ∫ p_n(ry) p_m(y)
    ω(y) dy, and the three-term recurrence of p_n(ry) one of the rows. Multiplication by y is a symmetric matrix whose
    eigenvalues lie within (0, 1), so the recurrence is as stable as that of the polynomials themselves, at r = 0, too.
    """
    _, _, middle, beside = (torch.as_tensor(v, dtype=step.dtype, device=step.device) for v in numbers(order, power))
    r = 1 - step.unsqueeze(-1)
    before, row = step.new_zeros(*step.shape, order), step.new_zeros(*step.shape, order)
    row[..., 0] = r[..., 0] ** (1 + power)
    rows = [row]
    for n in range(order - 1):
        moved = middle * row
        moved[..., 1:] += beside[1:] * row[..., :-1]
        moved[..., :-1] += beside[1:] * row[..., 1:]
        before, row = row, (r * moved - middle[n] * row - beside[n] * before) / beside[n + 1]
        rows.append(row)
    # Where no time passes, nothing changes: not even by rounding.
    same = torch.eye(order, dtype=step.dtype, device=step.device)
    return torch.where((r == 1).unsqueeze(-1), same, torch.stack(rows, dim=-2))
