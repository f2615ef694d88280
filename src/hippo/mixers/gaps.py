"""Recurrences whose time step differs from sample to sample."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hippo.kernels import stepwise

_FINEST = 8  # parts of the least gap that are tried as a common step
_LONGEST = 4  # times as many steps as samples that a common step may make
_RATES = 256  # that tables are made for at a time, where there are not more in a chunk


class Rule(NamedTuple):
    """What `hippo.kernels.stepwise` needs of a layer.

    Attributes:
        tables: From rates (J,), R (J, H, M), E (J, H, M) and K (J, H, r, M).
        P: (r, M).
        C: (H, M).
        less: Whether the state before is subtracted.
    """

    tables: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    P: Tensor
    C: Tensor
    less: bool


def through_gaps(rule: Rule, x: Tensor, state: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs (B, L, H) and the last state (B, H, M), with a step of its own for each sample.

    What depends on the rate alone is made once for each rate that occurs: in the whole sequence where they are few, as
    where samples were left out of a regular series; else in chunks of √L samples.

    Args:
        rule: Of the layer.
        x: (B, L, H).
        state: (B, H, M).
        rate: (B, L).
    """
    few = len(rate.unique()) <= _RATES
    chunk = x.shape[1] if few else math.isqrt(x.shape[1] - 1) + 1
    outputs = []
    for x_part, rate_part in zip(x.split(chunk, 1), rate.split(chunk, 1), strict=True):
        rates, which = rate_part.unique(return_inverse=True)
        y, state = stepwise.run(x_part, state, which, *rule.tables(rates), rule.P, rule.C, rule.less)
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
