"""Work side by side in threads, for compiled loops that release the GIL."""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch


def side_by_side(work: Callable[[int], Any], count: int) -> None:
    """Call work(0), …, work(count − 1), each in a thread, the first in that which calls; what no thread can be had for
    is done there, too.

    The threads are those of torch's OpenMP, where they can be had: they keep their processors busy for a while after
    each operation of torch, so that threads of another kind begin milliseconds late. But what they call has one thread
    only, so where there is more than one for each k they are of another kind.
    """
    left, errors = set(range(count)), []

    def share(k: int) -> None:
        try:
            left.discard(k)
            work(k)
        except BaseException as error:  # an interrupt, too: from a callback of C it would not come through
            errors.append(error)

    openmp = _openmp() if count > 1 and torch.get_num_threads() < 2 * count else None
    if openmp and os.getpid() == home:
        parallel, number = openmp
        parallel(_REGION(lambda _: share(number())), None, count, 0)
    elif count > 1:
        others: list[Future] = []
        with contextlib.suppress(RuntimeError):  # no more threads can be had, as when the interpreter ends
            others.extend(_pool(count - 1, os.getpid()).submit(share, k) for k in range(1, count))
        share(0)
        wait(others)
    while left:
        share(min(left))
    if errors:
        raise errors[0]


# The process in which torch's OpenMP can be had: in a fork it may wait for ever for threads that did not survive.
home = os.getpid()
_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> tuple[Callable, Callable] | None:
    """Return GOMP_parallel and omp_get_thread_num of torch's OpenMP, None where it is not GNU's or like it."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        kind = ctypes.CFUNCTYPE(None, _REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        number = ctypes.CFUNCTYPE(ctypes.c_int)(("omp_get_thread_num", library))
        return kind(("GOMP_parallel", library)), number
    except (AttributeError, OSError):
        return None


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads of a process: they do not survive a fork either."""
    return ThreadPoolExecutor(threads, "hippo")
