"""A Triton kernel to find out whether there can be any."""

import torch
import triton
import triton.language as tl


@triton.jit
def _store(x):
    tl.store(x, 1.0)


def run(device: torch.device) -> None:
    """Build and run it there: that takes a C compiler, and a GPU that Triton knows."""
    with torch.inference_mode(False), torch.cuda.device(device if device.type == "cuda" else -1):
        _store[(1,)](torch.zeros(1, device=device))
