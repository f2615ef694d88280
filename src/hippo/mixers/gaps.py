"""Recurrences whose time step differs from sample to sample, in memory that grows with the root of the length."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_FINEST = 8  # parts of the least gap that are tried as a common step
_LONGEST = 4  # times as many steps as samples that a common step may make


def through_gaps(
    tables: Callable[[Tensor], tuple[Tensor, ...]],
    advance: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    state: Tensor,
    rate: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, L, H) and the last state of a recurrence with a step of its own for each sample.

    What depends on the rate alone is made once for each rate that occurs in a chunk of √L samples. On the way back each
    chunk is run again, so that states are kept at the ends of chunks only.

    Args:
        tables: From rates (J,), what a step needs, each (J, ...).
        advance: From a state, a sample (B, H) and the rows of `tables` (B, ...), the output (B, H) and the next state.
        x: (B, L, H).
        state: (B, ...).
        rate: (B, L).
    """

    def run(x: Tensor, rate: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        rates, which = rate.unique(return_inverse=True)
        made = tables(rates)
        outputs = []
        for k, x_k in enumerate(x.unbind(1)):
            y, state = advance(state, x_k, *(table.index_select(0, which[:, k]) for table in made))
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    outputs, chunk = [], math.isqrt(x.shape[1] - 1) + 1
    for x_part, rate_part in zip(x.split(chunk, 1), rate.split(chunk, 1), strict=True):
        y, state = (
            checkpoint(run, x_part, rate_part, state, use_reentrant=False)
            if torch.is_grad_enabled()
            else run(x_part, rate_part, state)
        )
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


class Grid(NamedTuple):
    """Samples at unequal gaps, as samples that are held over equal steps.

    Attributes:
        step: The common step, in units of the layer's own.
        held: Which sample each step holds, (B, M); the last one beyond the end.
        ends: The step, from 1 on, at whose end each sample stands, (B, L); 0 before the first.
    """

    step: float
    held: Tensor
    ends: Tensor


def on_grid(rate: Tensor) -> Grid | None:
    """Return gaps (B, L) as whole numbers of a common step, where there is one that makes few enough steps."""
    positive = rate[rate > 0]
    if len(positive) == 0:
        return None
    least = positive.min()
    for parts in range(1, _FINEST + 1):
        counts = rate * (parts / least)
        whole = counts.round()
        if ((counts - whole).abs() <= 1e-5 * whole.clamp(min=1)).all():
            ends = whole.long().cumsum(1)
            steps = int(ends.max())
            if steps > _LONGEST * rate.shape[1]:
                return None
            at = torch.arange(steps, device=rate.device).expand(len(rate), -1).contiguous()
            held = torch.searchsorted(ends, at, right=True).clamp(max=rate.shape[1] - 1)
            return Grid(least.item() / parts, held, ends)
    return None
