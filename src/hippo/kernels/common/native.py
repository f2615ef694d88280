"""Loops compiled for the CPU by numba, where it is installed; without it everything works as well, and more slowly."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hippo.kernels.common import plain


def compiled() -> bool:
    """Return whether the compiled kernels are in use; where not, tensor operations serve, with equal results."""
    return numba() is not None


def refusal(tensor: Tensor) -> str | None:
    """Return why compiled loops cannot be had for tensors like this one, None where they can."""
    if reason := plain.refusal(tensor):
        return reason
    if not tensor.is_cpu:
        return f"the tensor is on {tensor.device}, and compiled loops are for the CPU"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"compiled loops are for float32 and float64, not {tensor.dtype}"
    if not compiled():
        return "numba is not installed, or switched off"
    return None


@functools.cache
def numba() -> Any:
    """Return numba, loaded where it is first needed; None if it cannot be had."""
    try:
        import numba
    except Exception:  # it is missing, or does not go with this NumPy or this machine, of which it has many errors
        return None
    return None if getattr(numba.config, "DISABLE_JIT", False) else numba


def opaque(function: Callable) -> Callable:
    """Keep torch.compile from looking into a function that calls what is compiled already, as `torch.compiler.disable`
    does, but without loading the compiler, which takes seconds, where nothing has loaded it yet."""
    disabled: Any = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        disabled = disabled or torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call


@opaque
def serves(*tensors: Tensor | None) -> bool:
    """Return whether compiled loops can be had for tensors like these, all of one dtype, and where there is None."""
    present = [tensor for tensor in tensors if tensor is not None]
    return len({tensor.dtype for tensor in present}) == 1 and not any(map(refusal, present))
