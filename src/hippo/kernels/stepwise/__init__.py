"""Recurrences of many small states, one for each feature, whose step is another at each sample: of S4 and S4D where
gaps between samples differ.

    w = R x + E u,   x ← w − Σ_i 2 Re(P_i* w) K_i  (− x),   y = 2 Re(C x)

Loops that numba compiles serve on a CPU: forward and backward they take a third of the time and of the memory of tensor
operations.
"""

from torch import Tensor

from hippo.kernels.common.native import serves
from hippo.kernels.stepwise import naive
from hippo.kernels.stepwise.naive import step, turned

__all__ = ["run", "step", "turned"]


def run(
    x: Tensor, state: Tensor, which: Tensor, R: Tensor, E: Tensor, K: Tensor, P: Tensor, C: Tensor, less: bool
) -> tuple[Tensor, Tensor]:
    """Return outputs (B, L, H) and the last state (B, H, M).

    Args:
        x: u (B, L, H), real.
        state: x before the first sample (B, H, M), complex, as all that follow `which`.
        which: Which of J steps each sample takes, (B, L), int64.
        R: (J, H, M).
        E: (J, H, M).
        K: (J, H, r, M).
        P: (r, M).
        C: (H, M).
        less: Whether the state before is subtracted, as the bilinear rule has it: x ← 2 (I − δA)⁻¹ (x + δB u) − x.
    """
    if serves(x):
        from hippo.kernels.stepwise import cpu  # numba takes a second to load

        return cpu.run(x, state, which, R, E, K, P, C, less)
    return naive.run(x, state, which, R, E, K, P, C, less)
