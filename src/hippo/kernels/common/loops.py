"""What loops over whole sequences share that numba compiles for the CPU. It imports numba: only modules named `cpu`
import this one, and these are imported only where `hippo.kernels.common.native.compiled()`.

Their matrix products are `np.dot`, which numba takes from SciPy's BLAS. A loop calls them itself: no thread waits for
another from the first step to the last, and nothing is left to an interpreter.
"""

import contextlib
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (so that the controller below finds its library)
import threadpoolctl
import torch
from numba import extending

from hippo.kernels.common.threads import side_by_side

# numba keeps what it compiles, which saves a gated network 4 s of the processor at its start, until the loop's own file
# changes. It does not look at this file, whose functions go into every loop: so a digest of it is part of their names.
_DIGEST = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}

_LEAST = 16  # samples that are worth a thread


def loop(function: Callable, **options: Any) -> Any:
    """Have numba compile a function, once for each dtype, when it is first called, and keep it for other processes."""
    function.__qualname__ += f"_{_DIGEST}"
    options = _OPTIONS | options
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(**options)(function)


def share(function: Callable, *inputs: Any, batch: int) -> list[Any]:
    """Call function(*inputs, begin, end) in several threads, each for its samples from `begin` to `end`, and return
    what each has returned. Tensors reach it as arrays."""
    arrays = [v.detach().contiguous().numpy() if isinstance(v, torch.Tensor) else v for v in inputs]
    shares = split(batch, threads(batch))
    results: list[Any] = [None] * len(shares)

    def work(k: int) -> None:
        results[k] = function(*arrays, *shares[k])

    with _one_thread_a_product():
        side_by_side(work, len(shares))
    return results


def threads(batch: int) -> int:
    """Return how many threads a batch is worth."""
    return max(1, min(torch.get_num_threads(), batch // _LEAST))


def split(batch: int, threads: int) -> Sequence[tuple[int, int]]:
    """Return the first sample of each thread, and the one after its last. Products of fours are faster, by 6 %."""
    return list(itertools.pairwise([*(batch * k // threads // 4 * 4 for k in range(threads)), batch]))


_blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
_lock = threading.Lock()
_limits: list[Any] = []  # one for each computation under way, all of them the first one's


@contextlib.contextmanager
def _one_thread_a_product() -> Iterator[None]:
    """Within it BLAS starts no threads of its own: these would be as many again in each of ours. It is one setting for
    the whole process, which the last computation to end puts back."""
    with _lock:
        _limits.append(_limits[0] if _limits else _blas.limit(limits=1))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


def _expm1(x):
    """Return e^x − 1, by a Taylor series around the nearest multiple of ln 2, from which compilers make vector
    instructions. (`math.tanh` is a call for every number.) NaN stays NaN."""
    raise NotImplementedError


@extending.overload(_expm1, jit_options=_OPTIONS)  # type: ignore[arg-type]
def _expm1_of(x):
    single = x == numba.types.float32
    real, word, digits, bias = (np.float32, np.int32, 23, 127) if single else (np.float64, np.int64, 52, 1023)
    # ln 2 in two parts, the first with so few digits that its multiples are exact.
    high, rest = (0.693359375, -2.12194440e-4) if single else (0.6931471803691238, 1.9082149292705877e-10)
    high, rest, inverse, one = real(high), real(rest), real(1 / math.log(2)), real(1)  # all stays in one type
    most = real(85 if single else 700)
    rounding = real(1.5 * 2.0**digits)  # what it is added to becomes a whole number
    c = tuple(real(1 / math.factorial(n)) for n in range(14))

    @numba.njit(**_OPTIONS)
    def short(r):
        return c[7]

    @numba.njit(**_OPTIONS)
    def long(r):
        return c[7] + r * (c[8] + r * (c[9] + r * (c[10] + r * (c[11] + r * (c[12] + r * c[13])))))

    tail = short if single else long

    def expm1(x):
        x = most if x > most else x
        x = -most if x < -most else x
        shifted = x * inverse + rounding
        whole = shifted - rounding
        r = (x - whole * high) - whole * rest
        p = r * (c[1] + r * (c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * tail(r)))))))
        scale = word(word(real(shifted).view(word) + bias) << digits).view(real)  # 2 ** whole, by its bits
        return p * scale + (scale - one)

    return expm1


@numba.njit(**_OPTIONS)
def sigmoid(x):
    one = type(x)(1)
    return one / (one + one + _expm1(-x))


@numba.njit(**_OPTIONS)
def tanh(x):
    one = type(x)(1)
    m = _expm1(-(x + x))
    return -m / (one + one + m)
