"""A recurrence whose step is another at each sample, step by step."""

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run(
    x: Tensor, state: Tensor, which: Tensor, R: Tensor, E: Tensor, K: Tensor, P: Tensor, C: Tensor, less: bool
) -> tuple[Tensor, Tensor]:
    """See `hippo.kernels.stepwise`.

    Steps are taken again on the way back, √L at a time, and of the states between only those at the ends are kept.
    """
    outputs, chunk = [], math.isqrt(x.shape[1] - 1) + 1
    for x_part, rows in zip(x.split(chunk, 1), which.split(chunk, 1), strict=True):
        arguments = x_part, state, rows, R, E, K, P, C, less
        y, state = checkpoint(_run, *arguments, use_reentrant=False) if torch.is_grad_enabled() else _run(*arguments)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def step(
    x: Tensor, state: Tensor, R: Tensor, E: Tensor, K: Tensor | None, P: Tensor, C: Tensor, less: bool
) -> tuple[Tensor, Tensor]:
    """Return the output (B, H) and the next state of one sample x (B, H), by steps (H, ...) or (B, H, ...).

    Args:
        P: (r, M), or as real and imaginary parts in turn (r, 2M), real.
        C: (H, M), likewise (H, 2M).
    """
    after = torch.addcmul(R * state, E, x.unsqueeze(-1))
    if K is not None:
        along = 2 * torch.view_as_real(after).flatten(-2) @ P.mT
        after = after - (along.unsqueeze(-1) * K).sum(-2)
    state = after - state if less else after
    return 2 * (torch.view_as_real(state).flatten(-2) * C).sum(-1), state


def turned(z: Tensor, conjugate: bool) -> Tensor:
    """Return complex numbers (..., M) as their real and imaginary parts in turn (..., 2M)."""
    return torch.view_as_real(z.conj().resolve_conj() if conjugate else z).flatten(-2)


def _run(
    x: Tensor, state: Tensor, which: Tensor, R: Tensor, E: Tensor, K: Tensor, P: Tensor, C: Tensor, less: bool
) -> tuple[Tensor, Tensor]:
    outputs, along, read = [], turned(P, False), turned(C, True)
    for x_k, rows in zip(x.unbind(1), which.unbind(1), strict=True):
        R_k, E_k = R.index_select(0, rows), E.index_select(0, rows)
        y, state = step(x_k, state, R_k, E_k, K.index_select(0, rows) if len(P) else None, along, read, less)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state
