"""A memory's step as a matrix, c ↦ Ā c + B̄ f, and those matrices that are kept from one signal to the next."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hippo import discretize
from hippo.constants import constant
from hippo.kernels import lti
from hippo.measures import LegS, Measure

_ALPHA = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}
NAMES = (*_ALPHA, "zoh")  # of discretizations


class Transition(NamedTuple):
    """One affine step of a memory, c ↦ Ā c + B̄ f.

    Attributes:
        A: Ā (..., N, N).
        B: B̄ (..., N).
    """

    A: Tensor
    B: Tensor

    def __call__(self, c: Tensor, f: Tensor) -> Tensor:
        """Advance coefficients c (..., N) by the input f (...)."""
        moved = c @ self.A.mT if self.A.dim() == 2 else torch.einsum("...ij,...j->...i", self.A, c)
        return torch.addcmul(moved, f.unsqueeze(-1), self.B)


class Filling(NamedTuple):
    """The first step of a memory, c ↦ B̄ f, which fills it with its first sample whatever c was.

    Attributes:
        B: B̄ (N,).
    """

    B: Tensor

    def __call__(self, c: Tensor, f: Tensor) -> Tensor:
        """Return coefficients (..., N) for the input f (...)."""
        return f.unsqueeze(-1) * self.B


def alpha(discretization: str | float) -> float:
    """Return the weight of the implicit side, of any discretization but "zoh"."""
    return _ALPHA[discretization] if isinstance(discretization, str) else discretization


def discretized(
    A: Tensor, B: Tensor, discretization: str | float, gap: Tensor | float, like: Tensor | None = None
) -> Transition:
    """Return the step of dc/dt = A c + B f over gaps (...), computed as A is and rounded to the dtype of `like`."""
    if discretization == "zoh":
        A, B = discretize.zoh(A, B, gap)
    else:
        A, B = discretize.gbt(A, B, gap, alpha(discretization))
    return Transition(A, B) if like is None else Transition(A.to(like), B.to(like))


def scaled(A: Tensor, B: Tensor, discretization: str | float, step: Tensor, like: Tensor | None = None) -> Transition:
    """Return the steps of dc/dt = (A c + B f)/t over relative steps dt/t ∈ [0, 1] of shape (...).

    In log t the system is time-invariant, so the zero-order hold is exact: repeating every sample changes nothing. At
    dt/t = 1 it forgets what was, and fills the memory with f.
    """
    if discretization != "zoh":
        return discretized(A, B, discretization, step, like)
    elapsed = -torch.log1p(-step.clamp(max=1 - 1e-12))  # log(t / (t − dt)), finite where dt = t
    A_bar, B_bar = discretize.zoh(A, B, elapsed)
    whole = step == 1
    A_bar = torch.where(whole[..., None, None], 0.0, A_bar)
    B_bar = torch.where(whole[..., None], -torch.linalg.solve(A, B), B_bar)
    return Transition(A_bar, B_bar) if like is None else Transition(A_bar.to(like), B_bar.to(like))


@constant(maxsize=32)
def translated(
    measure: Measure,
    order: int,
    discretization: str | float,
    gap: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Transition:
    """Return the step of a translated measure over one gap, computed in float64."""
    like = torch.empty(0, dtype=dtype, device=device)
    return discretized(*measure.dynamics(order), discretization, gap, like)


@constant(maxsize=16)
def constant_past(measure: Measure, order: int) -> Tensor:
    """Return the coefficients (N,) for a past that has been 1 for ever, where A c + B = 0, in float64."""
    A, B = measure.dynamics(order)
    return -(torch.linalg.pinv(A) @ B)


@constant(maxsize=4)
def blocks(
    measure: Measure, order: int, discretization: str | float, dtype: torch.dtype, device: torch.device
) -> lti.Blocks:
    """Return what blocks of samples 1 apart do to a translated measure's coefficients, computed in float64."""
    with torch.no_grad():
        step = translated(measure, order, discretization, 1.0)
        return lti.Blocks.of(*step).to(torch.empty(0, dtype=dtype, device=device))


def dilation(order: int, step: Tensor, dtype: torch.dtype | None = None) -> Transition:
    """Return the exact LegS steps (zero-order hold) for relative step sizes dt/t ∈ [0, 1] of shape (...), dense.

    A memory of [0, t − dt] that is read as a memory of [0, t] is the same polynomial, dilated: with r = 1 − dt/t,
    Ā_nm = r ∫_0^1 g_n(r y) g_m(y) dy, which Gauss–Legendre quadrature with N nodes gives without error. It equals
    e^{A log(1/r)}, and is defined at r = 0 too, where everything older is forgotten.
    """
    y, w, values = (v.to(step) for v in _quadrature(order))
    r = (1 - step).unsqueeze(-1)
    dilated = LegS().basis(order, r * y, 1.0)
    A = torch.einsum("...qn,q,qm->...nm", dilated, w, values) * r.unsqueeze(-1)
    e_0 = torch.zeros_like(A[..., 0])
    e_0[..., 0] = 1
    # Where no time passes, nothing changes: not even by the quadrature's rounding.
    A = torch.where((step == 0)[..., None, None], torch.eye(order).to(A), A)
    return Transition(A.to(dtype or step.dtype), (e_0 - A[..., 0]).to(dtype or step.dtype))


@constant(maxsize=8)
def _quadrature(order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss–Legendre nodes (N,) and weights (N,) on [0, 1], and the LegS basis at the nodes (N, N)."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(order))
    y = (nodes + 1) / 2
    return y, weights / 2, LegS().basis(order, y, 1.0)
