"""Memories of all the past under the weight ω(s) = s^a, each with a linear readout: the scale convolution
y(t) = ∫₀¹ φ(s) x(st) ω(s) ds, whose φ is a polynomial of degree N − 1.

The memory follows dc/dt = (−A c + B x)/t with A_nn = n + 1 + a and A_nk = s_n s_k below the diagonal,
s_n = √(2n + 1 + a), and has the constant x as its coefficients x e_0. With a = 0 it is LegS (arXiv 2008.07669, theorem
2). Its coefficients are read as they come: nobody holds those of all samples.

naive       tensor operations, a few samples at a time: the reference, and what serves everywhere
cpu         a compiled loop, with its adjoint, where every channel has a readout of its own
"""

from torch import Tensor

from hippo.kernels import legs
from hippo.kernels.common.native import serves
from hippo.kernels.scaled import naive
from hippo.kernels.scaled.naive import dilation

__all__ = ["dilation", "read", "remember"]


def read(
    x: Tensor, state: Tensor, step: Tensor, C: Tensor, power: float = 0.0, alpha: float | None = 0.5
) -> tuple[Tensor, Tensor]:
    """Return what is read from the coefficients after every sample, and the coefficients after the last.

    Args:
        x: Samples (B, L, H).
        state: Coefficients (B, H, N) before the first of them.
        step: Relative steps dt/t ∈ [0, 1] in float64, (L, B), or (L, 1) where the sequences share them. A step of 0
            leaves the coefficients as they are.
        C: Readout of each channel by itself (H, N), y_h = Σ_n C_hn c_hn; or of all by all (R, H, N).
        power: a > −1, the exponent of the weight: above 0 the recent past counts more.
        alpha: Weight of the implicit side, 1/2 for the bilinear rule; None for the step that is exact where x is held
            between samples, at O(N²) a sample instead of O(N).

    Returns:
        Outputs (B, L, H) or (B, L, R), and coefficients (B, H, N).
    """
    if C.dim() == 2 and serves(x, state, C):
        from hippo.kernels.scaled import cpu  # numba takes a second to load

        return cpu.read(x, state, step, C, power, alpha)
    return naive.read(x, state, step, C, power, alpha)


def remember(x: Tensor, state: Tensor, step: Tensor, power: float = 0.0, alpha: float | None = 0.5) -> Tensor:
    """Return the coefficients after the last sample (B, H, N), where nothing is read before. Arguments are those of
    `read`."""
    (batch, _, features), order = x.shape, state.shape[-1]
    if power != 0 or alpha is None:  # not the operation of `legs`, whose own door chooses for the rest
        return read(x, state, step, x.new_zeros(features, order), power, alpha)[1]
    each = step.repeat_interleave(features, dim=1) if step.shape[1] > 1 else step
    return legs.sequence(state.flatten(0, 1), x.mT.flatten(0, 1), each, alpha, every=False).unflatten(0, (batch, -1))
