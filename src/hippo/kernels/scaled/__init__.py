"""Memories of all the past under the weight ω(s) = s^a, each with a linear readout: the scale convolution
y(t) = ∫₀¹ φ(s) x(st) ω(s) ds, whose φ is a polynomial of degree N − 1.

The memory is that of `hippo.measures.JacS`, and with a = 0 of LegS (arXiv 2008.07669, theorem 2). Its coefficients are
read as they come: nobody holds those of all samples.

An exact step, for an input that is held between samples, multiplies by r^A, r the ratio of the times: a dilation, which
is a full lower triangle. We know of no product with it in O(N) that keeps its digits, so a step costs O(N²). But the
coefficients after the last sample are one sum over all samples, at O(N) each. With B = 100, L = 784, N = 64, float32,
one thread of a Xeon: 5 ms for the last coefficients (with the bilinear rule 4 ms), 47 ms for those of all samples.

naive       tensor operations, a few samples at a time: the reference, and what serves everywhere
cpu         a compiled loop, with its adjoint, where every channel has a readout of its own
"""

import torch
from torch import Tensor

from hippo.kernels import legs
from hippo.kernels.common.native import serves
from hippo.kernels.scaled import naive

__all__ = ["dilation", "read", "remember", "step"]


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
    """Return the coefficients after the last sample (B, H, N), where nothing is read before, at O(N) a sample by either
    rule. Arguments are those of `read`."""
    if alpha is None:
        ends, order = naive.ends(step), state.shape[-1]
        return state @ dilation(order, 1 - ends[0], power).to(x).mT + naive.held(x, ends, order, power)
    batch, _, features = x.shape
    each = step.repeat_interleave(features, dim=1) if step.shape[1] > 1 else step
    after = legs.sequence(state.flatten(0, 1), x.mT.flatten(0, 1), each, alpha, every=False, power=power)
    return after.unflatten(0, (batch, -1))


def step(x: Tensor, state: Tensor, step: float, power: float = 0.0) -> Tensor:
    """Return the coefficients (B, H, N) after one sample x (B, H) by the bilinear rule, where all sequences share the
    relative step: in a fifth of the time that `remember` takes for one."""
    try:
        return legs.step(state.flatten(0, 1), x.flatten(), step, 0.5, power).view_as(state)
    except OverflowError:  # a layer hands on what is not finite
        steps = torch.full((1, 1), step, dtype=torch.float64, device=x.device)
        return remember(x.unsqueeze(1), state, steps, power)


def dilation(order: int, step: Tensor, power: float = 0.0) -> Tensor:
    """Return what an exact step does to a memory of the constant 0, (..., N, N) for relative steps dt/t (...); the
    identity where a step is 0."""
    if serves(step) and not torch.compiler.is_exporting():  # where even plain steps give tensors without values
        from hippo.kernels.scaled import cpu

        return cpu.dilation(order, step, power)
    return naive.dilation(order, step, power)
