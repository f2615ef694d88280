"""LegS over a signal, by a generalized bilinear transform, and which implementation serves: `choose` says.

All take `power` as well, the a of `hippo.measures.JacS`: 0 is LegS.

naive       tensor operations: the reference, and what serves everywhere
cpu         a compiled loop, with its adjoint
wavefront   the same for samples one unit of time apart whose last coefficients alone are wanted: millions a second
gpu         one kernel for the whole signal, with its adjoint
"""

from types import ModuleType

import torch
from torch import Tensor

from hippo.kernels.common import gpus, native
from hippo.kernels.legs import naive
from hippo.kernels.legs.naive import legs_steps
from hippo.values import may_look

__all__ = ["choose", "cpu_step", "gpu_step", "legs_steps", "remember", "sequence", "step"]


def choose(*tensors: Tensor) -> tuple[str, str]:
    """Return what serves coefficients and samples like these, "GPU kernel", "compiled loop" or "plain loop", and why:
    the one place where it is decided."""
    if gpus.serves(*tensors):
        return "GPU kernel", "a step costs O(N): one kernel for the whole signal"
    for tensor in tensors:
        if reason := native.refusal(tensor):
            return "plain loop", reason
    return "compiled loop", "a step costs O(N): one sample, or a state for every sample"


def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float = 0.0) -> Tensor:
    """Advance coefficients by a sequence of samples.

    Gradients of any order reach c and f. Where it is compiled they need no memory, but are not to be had batched.

    Args:
        c: Coefficients (B, N).
        f: Samples (B, L), like c in dtype and device.
        step: Relative steps dt/t in float64, (L, B), or (L, 1) where the samples share them.
        alpha: Weight of the implicit side: 0 Euler, 1/2 bilinear, 1 backward Euler.
        every: Whether to return the coefficients after every sample, or after the last only.
        power: Of JacS; 0 of LegS.

    Returns:
        Coefficients (B, L, N), or (B, N).
    """
    name, _ = choose(c, f)
    if name == "GPU kernel":
        from hippo.kernels.legs import gpu  # it imports triton, which takes time that the CPU need not spend

        return gpu.sequence(c, f, step, alpha, every, power)
    if name == "compiled loop":
        from hippo.kernels.legs import cpu  # numba, which takes half a second to load

        return cpu.sequence(c, f, step, alpha, every, power)
    return naive.sequence(c, f, step, alpha, every, power)


def remember(c: Tensor, f: Tensor, time: float, power: float = 0.0) -> Tensor:
    """Advance coefficients (B, N) at `time` ≥ 0 by samples (B, L) one unit of time apart, with the bilinear
    transform, and return those after the last, (B, N)."""
    if choose(c, f)[0] == "compiled loop":
        from hippo.kernels.legs import wavefront

        return wavefront.remember(c, f, time, power)
    times = time + torch.arange(1, f.shape[1] + 1, dtype=torch.float64, device=f.device)
    return sequence(c, f, (1 / times).unsqueeze(1), 0.5, every=False, power=power)


def step(c: Tensor, f: Tensor, step: float, alpha: float, power: float = 0.0) -> Tensor:
    """Advance coefficients (B, N) by one sample (B,), to the last bit as `sequence` does: without gradients, and
    where it is compiled, in a few microseconds.

    Raises:
        OverflowError: If coefficients are not finite after it, where the host may look.
    """
    graph = torch.is_grad_enabled() and (c.requires_grad or f.requires_grad)
    if not graph and choose(c, f)[0] == "compiled loop":
        from hippo.kernels.legs import cpu

        return cpu.step(c, f, step, alpha, power)
    steps = torch.full((1, 1), step, dtype=torch.float64, device=f.device)
    after = sequence(c, f.unsqueeze(1), steps, alpha, every=False, power=power)
    if may_look(after) and not torch.isfinite(after).all():
        raise OverflowError(f"coefficients are not finite in {c.dtype}")
    return after


def cpu_step() -> ModuleType:
    """Return the step as loops of other operations call it: a module with `advance`, its adjoint `retreat`, and
    `recursion`, which makes what both read. It imports numba."""
    from hippo.kernels.legs import cpu

    return cpu


def gpu_step() -> ModuleType:
    """Return the step as a kernel of its own: a module with `advance`, its adjoint `retreat`, and `launch_shape`. It
    imports triton."""
    from hippo.kernels.legs import gpu

    return gpu
