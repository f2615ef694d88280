"""Where Triton's kernels serve. Triton itself is loaded where a tensor on a GPU first asks for it."""

import functools

import torch
from torch import Tensor


def serves(*tensors: Tensor) -> bool:
    """Return whether there are Triton kernels for such tensors: plain ones of one dtype, float32 or float64, on one
    GPU that Triton can build for. What function transforms and forward-mode differentiation pass on is not plain, and
    only private names of torch tell; without them `torch.func` would end in an error instead of in the reference."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.dtype in (torch.float32, torch.float64)
        and all(type(v) in (Tensor, torch.nn.Parameter) for v in tensors)
        and all((v.dtype, v.device) == (first.dtype, first.device) for v in tensors)
        and torch._C._functorch.maybe_current_level() is None
        and torch.autograd.forward_ad._current_level < 0
        and works(first.device)
    )


@functools.cache
def works(device: torch.device) -> bool:
    """Return whether a Triton kernel can be built and run there."""
    try:
        from hippo.kernels.common import probe

        probe.run(device)
    except Exception:  # Triton may be missing; a missing compiler or an unknown GPU it reports by many kinds of errors
        return False
    return True
