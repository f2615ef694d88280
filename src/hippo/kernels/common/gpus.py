"""Where Triton's kernels serve. Triton itself is loaded where a tensor on a GPU first asks for it."""

import functools

import torch
from torch import Tensor

from hippo.kernels.common import plain


def serves(*tensors: Tensor) -> bool:
    """Return whether there are Triton kernels for such tensors: plain ones of one dtype, float32 or float64, on one
    GPU that Triton can build for."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.dtype in (torch.float32, torch.float64)
        and all((v.dtype, v.device) == (first.dtype, first.device) for v in tensors)
        and not any(map(plain.refusal, tensors))
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
