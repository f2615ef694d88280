"""LegS over a signal, by a generalized bilinear transform, and which implementation serves.

naive       tensor operations: the reference, and what serves everywhere
cpu         a compiled loop, with its adjoint
wavefront   the same for samples one unit of time apart whose last coefficients alone are wanted: millions a second
"""

import torch
from torch import Tensor

from hippo.kernels.common import gpus, native
from hippo.kernels.legs import naive
from hippo.kernels.legs.naive import legs_steps

__all__ = ["legs_steps", "refusal", "remember", "sequence", "step"]


def refusal(*tensors: Tensor) -> str | None:
    """Return why compiled loops do not serve coefficients and samples like these, None where they do."""
    return next((reason for reason in map(native.refusal, tensors) if reason), None)


def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
    """Advance LegS coefficients by a sequence of samples.

    Gradients of any order reach c and f. Where it is compiled they need no memory, but are not to be had batched.

    Args:
        c: Coefficients (B, N).
        f: Samples (B, L), like c in dtype and device.
        step: Relative steps dt/t in float64, (L, B), or (L, 1) where the samples share them.
        alpha: Weight of the implicit side: 0 Euler, 1/2 bilinear, 1 backward Euler.
        every: Whether to return the coefficients after every sample, or after the last only.

    Returns:
        Coefficients (B, L, N), or (B, N).
    """
    if gpus.serves(c, f):
        from hippo.kernels.legs import gpu  # it imports triton, which takes time that the CPU need not spend

        return gpu.sequence(c, f, step, alpha, every)
    if refusal(c, f):
        return naive.sequence(c, f, step, alpha, every)
    from hippo.kernels.legs import cpu  # numba, which takes half a second to load

    return cpu.sequence(c, f, step, alpha, every)


def remember(c: Tensor, f: Tensor, time: float) -> Tensor:
    """Advance LegS coefficients (B, N) at `time` ≥ 0 by samples (B, L) one unit of time apart, with the bilinear
    transform, and return those after the last, (B, N)."""
    if refusal(c, f):
        times = time + torch.arange(1, f.shape[1] + 1, dtype=torch.float64, device=f.device)
        return naive.sequence(c, f, (1 / times).unsqueeze(1), 0.5, every=False)
    from hippo.kernels.legs import wavefront

    return wavefront.remember(c, f, time)


def step(c: Tensor, f: Tensor, step: float, alpha: float) -> Tensor:
    """Advance LegS coefficients (B, N) by one sample (B,), to the last bit as `sequence` does, in a few microseconds:
    without gradients, and only where nothing is refused."""
    from hippo.kernels.legs import cpu

    return cpu.step(c, f, step, alpha)
