"""A memory's step as a matrix, c ↦ Ā c + B̄ f, and those matrices that are kept from one signal to the next."""

from typing import NamedTuple

import torch
from torch import Tensor

from hippo import discretize
from hippo.constants import constant
from hippo.kernels import lti
from hippo.kernels import scaled as scale
from hippo.measures import Measure

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
    if measure.scaled_power is not None:  # whose first polynomial is 1
        return torch.eye(1, order, dtype=torch.float64)[0]
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


def held(order: int, step: Tensor, power: float, like: Tensor | None = None) -> Transition:
    """Return the exact steps (zero-order hold) of `hippo.measures.JacS` over relative steps dt/t ∈ [0, 1] of shape
    (...): what `scaled` has by a matrix exponential, by `hippo.kernels.scaled.dilation`."""
    A = scale.dilation(order, step, power)
    # A constant input is remembered as a multiple of e_0, a fixed point.
    e_0 = torch.eye(1, order, dtype=A.dtype, device=A.device)[0]
    B = e_0 - A[..., 0]
    return Transition(A, B) if like is None else Transition(A.to(like), B.to(like))
