"""Measures: how a memory weighs the past, and the linear ODE that keeps its optimal polynomial coefficients.

A measure on the past of a signal f, with an orthonormal basis g_0, g_1, … for it, defines the coefficients
c_n(t) = ∫ f(x) g_n(t, x) dμ_t(x) of the best approximation of f by N basis functions. HiPPO (arXiv 2008.07669) shows
that they follow a linear ODE. Here every measure uses the *orthonormal* basis, so that ‖c‖² is the energy remembered
and f(x) ≈ Σ c_n g_n(t, x). A measure is data: `dynamics`, `basis`, `window`; the algorithms are in `hippo.memory`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measure(ABC):
    """Base of all measures.

    Attributes:
        scale_invariant: False when dc/dt = A c + B f; True when dc/dt = (A c + B f) / t, which makes the memory
            independent of the time scale of its input.
    """

    scale_invariant: ClassVar[bool] = False

    @abstractmethod
    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        """Return the state matrix A (N, N) and the input vector B (N,) of the ODE, in float64."""

    @abstractmethod
    def window(self, now: float) -> tuple[float, float]:
        """Return the interval of the past, as (oldest, newest) times, that the memory covers at time `now`."""

    @abstractmethod
    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        """Return g_n(now, x) at times x of shape (...), as a tensor (..., N). Meaningful inside `window` only."""


@dataclass(frozen=True)
class LegS(Measure):
    """Scaled Legendre: the whole past [0, t], weighted evenly (Theorem 2 of arXiv 2008.07669)."""

    scale_invariant: ClassVar[bool] = True

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        s = _legendre_norms(order)
        A = -torch.tril(s[:, None] * s, diagonal=-1) - torch.diag(torch.arange(1, order + 1, dtype=torch.float64))
        return A, s

    def window(self, now: float) -> tuple[float, float]:
        return 0.0, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _legendre_norms(order).to(times) * legendre(order, 2 * times / now - 1)


@dataclass(frozen=True)
class LegT(Measure):
    """Translated Legendre: the last `length` units of time, weighted evenly (Theorem 1 of arXiv 2008.07669).

    Args:
        length: The window θ > 0, in the unit of the timestamps (in samples where there are none).
    """

    length: float

    def __post_init__(self) -> None:
        if not 0 < self.length < math.inf:
            raise ValueError(f"LegT's window must be longer than 0 and finite, not {self.length}")

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        s = _legendre_norms(order)
        n = torch.arange(order)
        alternating = (-1.0) ** (n[:, None] - n).to(torch.float64)
        signs = torch.where(n[:, None] >= n, torch.ones_like(alternating), alternating)
        return -s[:, None] * s * signs / self.length, s / self.length

    def window(self, now: float) -> tuple[float, float]:
        return now - self.length, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _legendre_norms(order).to(times) * legendre(order, 2 * (times - now) / self.length + 1)


def by_name(name: str) -> Measure:
    """Return a measure that has no parameters by its name. Raises ValueError for any other name."""
    if name == "legs":
        return LegS()
    raise ValueError(f"unknown measure {name!r}; legs goes by its name, others are given as objects: LegT(length=200)")


def legendre(order: int, x: Tensor) -> Tensor:
    """Return the Legendre polynomials P_0, …, P_{N-1} at x of shape (...), as a tensor (..., N)."""
    values = [torch.ones_like(x), x]
    for n in range(1, order - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[:order], dim=-1)


def _legendre_norms(order: int) -> Tensor:
    """√(2n+1), which makes P_n orthonormal on an interval with the uniform probability measure."""
    return torch.sqrt(2 * torch.arange(order, dtype=torch.float64) + 1)
