"""What the gated network's kernels need to know of a memory: its step, in the two forms that they compute."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]  # coefficients (B, N), input (B,) ↦ the next coefficients (B, N)


class LegSSteps(NamedTuple):
    """LegS, or JacS, under a generalized bilinear transform. The first sample u fills the memory: it has u e_0.

    Attributes:
        step: Relative steps dt/t of the other samples, (L − 1, B); where one is 0 the coefficients stay as they are.
        alpha: Weight of the implicit side.
        order: Number of coefficients N.
        power: Of JacS; 0 of LegS.
    """

    step: Tensor
    alpha: float
    order: int
    power: float = 0.0


class LTIStep(NamedTuple):
    """The step c ↦ Ā c + B̄ u that all samples share, from c = 0.

    Attributes:
        A: Ā (N, N).
        B: B̄ (N,).
    """

    A: Tensor
    B: Tensor

    def __call__(self, c: Tensor, u: Tensor) -> Tensor:
        """Advance coefficients c (B, N) by the input u (B,)."""
        return torch.addcmul(c @ self.A.mT, u.unsqueeze(-1), self.B)
