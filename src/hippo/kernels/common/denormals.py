"""Numbers below the smallest normal one: what fades passes through them, and arithmetic with them is very slow."""

import contextlib
import sys
from collections.abc import Iterator

import torch

_SMALLEST = sys.float_info.min


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Within it this thread takes denormal numbers for 0, where the processor can; after it, as it did before."""
    had_them = _SMALLEST / 2 > 0  # no function of torch tells
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not had_them)
