"""The process that computes, set up once."""

import contextlib
import ctypes
import functools

import torch


@functools.cache
def prepare() -> None:
    """Set up this process, before its first parallel operation.

    Denormal numbers slow long backward passes on a CPU down many times over; they are flushed to zero. Threads inherit
    the setting from the one that starts them.

    glibc gives large blocks back to the system when they are freed, and a training step that asks for them again pays
    for every page anew, up to a third of its time. They are kept.
    """
    torch.set_flush_denormal(True)
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
