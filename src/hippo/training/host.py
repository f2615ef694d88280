"""The process that computes, set up once."""

import contextlib
import ctypes
import functools
import os


def set_environment() -> None:
    """Set what PyTorch's libraries read when they are loaded: call this before PyTorch is imported.

    GNU OpenMP's threads spin for milliseconds after an operation of PyTorch, on cores that threads of this package then
    want (`kernels.common.threads`). With a tenth of its 300,000 turns a training step of LegS, LegT, LMU and GRU (182
    steps, hidden size 256, two threads on two cores) takes 0.88 to 0.91 of its time. With 1000 turns the many small
    operations of an ODE-RNN take 1.1 times theirs, for threads that sleep have to be woken.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")


@functools.cache
def prepare() -> None:
    """Set up this process, before its first parallel operation.

    Denormal numbers slow long backward passes on a CPU down many times over; they are flushed to zero. Threads inherit
    the setting from the one that starts them.

    glibc gives large blocks back to the system when they are freed, and a training step that asks for them again pays
    for every page anew, up to a third of its time. They are kept.
    """
    import torch  # here, for what precedes it

    torch.set_flush_denormal(True)
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
