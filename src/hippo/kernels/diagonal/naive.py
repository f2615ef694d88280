"""A diagonal linear recurrence, step by step: what every other form of it is tested against."""

import torch
from torch import Tensor


def scan(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Return x_t = a_t x_{t−1} + b_t after every step, (B, L, P).

    Args:
        a: Factors (P,), or (B, L, P) where they change with time.
        b: (B, L, P).
        state: x before the first step (B, P).
    """
    a = a.expand_as(b)
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        state = a_t * state + b_t
        states.append(state)
    return torch.stack(states, dim=1)
