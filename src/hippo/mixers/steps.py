"""Step sizes, and what a step does to a state with diagonal dynamics."""

import math

import torch
from torch import Tensor


def discretize(A: Tensor, step: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Return what one step does to a state of dx/dt = A x + u, entry by entry: the factor on x, and that on u.

    Args:
        A: Complex, not 0.
        step: Δ, of a shape that broadcasts with A's.
        rule: "zoh" or "bilinear".
    """
    z = step * A
    if rule == "zoh":
        return torch.exp(z), torch.expm1(z) / A
    return (1 + z / 2) / (1 - z / 2), step / (1 - z / 2)


def log_uniform(between: tuple[float, float], count: int) -> Tensor:
    """Return logarithms of numbers that are drawn log-uniformly."""
    low, high = (math.log(end) for end in between)
    return torch.rand(count) * (high - low) + low


def check_settings(steps: tuple[float, float], discretization: str) -> None:
    """Raise ValueError unless the step sizes are a range above 0 and the discretization is known."""
    if not 0 < steps[0] <= steps[1] < math.inf:
        raise ValueError(f"steps must be a range of step sizes above 0, not {steps}")
    if discretization not in ("zoh", "bilinear"):
        raise ValueError(f"unknown discretization {discretization!r}; choose zoh or bilinear")
