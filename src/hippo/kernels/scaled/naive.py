"""Memories of all the past and their readouts in tensor operations, √L samples at a time."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hippo import discretize
from hippo.kernels import legs
from hippo.kernels.scaled.numbers import numbers


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
    if power == 0 and alpha is not None:
        each = step.expand(-1, batch).repeat_interleave(features, dim=1) if step.shape[1] > 1 else step
        c = legs.sequence(state.flatten(0, 1), x.mT.flatten(0, 1), each, alpha, every=True)
        return c.unflatten(0, (batch, features)).transpose(1, 2)
    states = []
    for x_k, change in zip(x.unbind(1), changes(order, step, power, alpha, x), strict=True):
        past = state - torch.nn.functional.pad(x_k.unsqueeze(-1), (0, order - 1))  # a constant is a fixed point
        state = state + past @ change.mT
        states.append(state)
    return torch.stack(states, dim=1)


def changes(order: int, step: Tensor, power: float, alpha: float | None, like: Tensor) -> Iterator[Tensor]:
    """Yield Ā − I of each of the steps (L, B) or (L, 1), computed in float64: (B, N, N) or (1, N, N) each."""
    d, s, *_ = (v.to(step.device) for v in numbers(order, power))
    A = -torch.tril(torch.outer(s, s), -1) - torch.diag(d)
    for some in step:
        after = dilation(order, some, power) if alpha is None else discretize.gbt(A, s, some, alpha)[0]
        yield (after - torch.eye(order).to(A)).to(like)


def dilation(order: int, step: Tensor, power: float = 0.0) -> Tensor:
    """Return (1 − dt/t)^A, what an exact step does to a memory of the constant 0: (..., N, N) for steps dt/t (...).

    A memory of [0, rt] that is read as one of [0, t] is the same polynomial, dilated: row n is r^{1+a} ∫ p_n(ry) p_m(y)
    ω(y) dy, and the three-term recurrence of p_n(ry) one of the rows. Multiplication by y is a symmetric matrix whose
    eigenvalues lie within (0, 1), so the recurrence is as stable as that of the polynomials themselves, at r = 0, too.
    """
    _, _, middle, beside = (v.to(step) for v in numbers(order, power))
    r = 1 - step.unsqueeze(-1)
    before, row = torch.zeros(*step.shape, order).to(step), torch.zeros(*step.shape, order).to(step)
    row[..., 0] = r[..., 0] ** (1 + power)
    rows = [row]
    for n in range(order - 1):
        moved = middle * row
        moved[..., 1:] += beside[1:] * row[..., :-1]
        moved[..., :-1] += beside[1:] * row[..., 1:]
        before, row = row, (r * moved - middle[n] * row - beside[n] * before) / beside[n + 1]
        rows.append(row)
    return torch.stack(rows, dim=-2)
