"""What loops over whole sequences share that numba compiles for the CPU. It imports numba: only modules named `cpu`
import this one, and these are imported only where `hippo.kernels.common.native.compiled()`.

A loop calls matrix products itself: no thread waits for another from the first step to the last, and nothing is left
to an interpreter.
"""

import contextlib
import ctypes
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (so that the controller below finds its library)
import threadpoolctl
import torch
from numba import extending

from hippo.kernels.common.threads import side_by_side


def _mkl() -> ctypes.CDLL | None:
    """Return the library of torch with its matrix products, which loops then know as hippo_sgemm and hippo_dgemm; None
    where that is not MKL.

    MKL is what np.dot is measured against: with 50 rows and 1025 × 512 weights, float32, one thread, it makes 2.0 times
    as many products a second as SciPy's OpenBLAS on a Sapphire Rapids Xeon, and 1.1 times on an EPYC.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.MKL_Set_Num_Threads_Local  # noqa: B018  (raises where it is missing)
        for name in ("sgemm", "dgemm"):
            address = ctypes.cast(getattr(library, f"{name}_"), ctypes.c_void_p).value
            llvmlite.binding.add_symbol(f"hippo_{name}", address)
    except (AttributeError, OSError):
        return None
    return library


_MKL = _mkl()


# numba keeps what it compiles, which saves a gated network 2 s at its start, until the loop's own file changes. It does
# not look at the files of other functions that go into the loop: so a digest of all kernels is part of their names.
def _digest(folder: Path, mkl: bool) -> str:
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))
    return hashlib.sha256(content + bytes([mkl])).hexdigest()[:8]


_DIGEST = _digest(Path(__file__).parents[1], _MKL is not None)

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


def share(function: Callable, *inputs: Any, shares: Sequence[Sequence[int]]) -> list[Any]:
    """Call function(*inputs, begin, end) in a thread for each share of the samples, and return what each has returned.
    Tensors reach it as arrays, those in a NamedTuple too."""
    arrays = [_array(value) for value in inputs]
    results: list[Any] = [None] * len(shares)

    def work(k: int) -> None:
        with _one_thread_a_product():
            results[k] = function(*arrays, *shares[k])

    side_by_side(work, len(shares))
    return results


def _array(value: Any) -> Any:
    if isinstance(value, tuple):
        return value._make(map(_array, value))  # type: ignore[attr-defined]
    return value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else value


def split(batch: int, threads: int | None = None) -> list[tuple[int, int]]:
    """Return the first sample of each thread, and the one after its last, for as many threads as a batch is worth."""
    if threads is None:
        threads = max(1, min(torch.get_num_threads(), batch // _LEAST))
    return list(itertools.pairwise(batch * k // threads for k in range(threads + 1)))


_blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
_lock = threading.Lock()
_limits: list[Any] = []  # one for each thread at work, all of them the first one's


@contextlib.contextmanager
def _one_thread_a_product() -> Iterator[None]:
    """Within it products start no threads of their own: these would be as many again in each of ours. MKL has a setting
    for each thread, the others one for the whole process, which the last to end puts back."""
    if _MKL is not None:
        before = _MKL.MKL_Set_Num_Threads_Local(1)
        try:
            yield
        finally:
            _MKL.MKL_Set_Num_Threads_Local(before)
        return
    with _lock:
        _limits.append(_limits[0] if _limits else _blas.limit(limits=1))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


@extending.intrinsic
def _pointer(context, address, array):
    kind = numba.types.CPointer(array.dtype)

    def code(context, build, signature, arguments):
        return build.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, array), code


@numba.njit(**_OPTIONS)
def pointer(array):
    """Return where the numbers of a contiguous array stand, to be indexed as one long row. Of slices numba counts
    references, which costs more than a short loop over one."""
    return _pointer(array.ctypes.data, array)  # type: ignore[missing-argument]  (numba passes the context)


def product(a, b, out):
    """out ← a b, for a matrix a and a matrix or vector b that are contiguous, a also as the transpose of such a one.
    Products with transposed weights take up to 1.4 times as long."""
    np.dot(a, b, out)


@extending.overload(product, jit_options=_OPTIONS)  # type: ignore[arg-type]
def _product_of(a, b, out):
    return _by_scipy(a, b, out) if _MKL is None else _by_mkl(a, b, out)


def _by_scipy(a, b, out):
    """Return the product as numba has it, by the library that SciPy brings."""
    return lambda a, b, out: np.dot(a, b, out)


def _by_mkl(a, b, out):
    single, transposed = out.dtype == numba.types.float32, a.layout == "F"
    kind, modes = np.float32 if single else np.float64, (ord("N"), ord("T" if transposed else "N"))
    assert (b.layout, out.layout, a.dtype, b.dtype) == ("C", "C", out.dtype, out.dtype), (a, b, out)
    assert a.layout in "CF", a
    addresses = [numba.types.voidptr] * 13
    gemm = numba.types.ExternalFunction("hippo_sgemm" if single else "hippo_dgemm", numba.types.void(*addresses))

    def product(a, b, out):  # what are rows here are columns in Fortran: outᵀ ← bᵀ aᵀ
        rows, inner = a.shape
        columns = b.size // inner
        n = np.array([*modes, columns, rows, inner, columns, rows if transposed else inner, columns], np.int32)
        one, zero = np.ones(1, kind), np.zeros(1, kind)
        gemm(
            n[0:].ctypes, n[1:].ctypes, n[2:].ctypes, n[3:].ctypes, n[4:].ctypes, one.ctypes, b.ctypes, n[5:].ctypes,
            a.ctypes, n[6:].ctypes, zero.ctypes, out.ctypes, n[7:].ctypes,
        )  # fmt: skip

    return product


def exp(x):
    """Return e^x, within the range of normal numbers: what is below them is e^-85, or e^-700 of float64. NaN stays NaN.
    (numba's own calls the C library for every number, which no loop makes vector instructions of.)"""
    raise NotImplementedError


def _expm1(x):
    """Return e^x − 1, in the range of `exp`. (`math.tanh` is a call for every number.)"""
    raise NotImplementedError


@extending.overload(exp, jit_options=_OPTIONS)  # type: ignore[arg-type]
def _exp_of(x):
    parts = _exponential(x)

    def exp(x):
        r, q, scale = parts(x)
        return (type(x)(1) + r * q) * scale

    return exp


@extending.overload(_expm1, jit_options=_OPTIONS)  # type: ignore[arg-type]
def _expm1_of(x):
    parts = _exponential(x)

    def expm1(x):
        r, q, scale = parts(x)
        return r * q * scale + (scale - type(x)(1))

    return expm1


def _exponential(kind: Any) -> Any:
    """Return a function for loops over numbers of a type of numba's: it takes x to r, q and 2^k with x = k ln 2 + r and
    e^r = 1 + r q, where k is the nearest whole number and q a Taylor series."""
    single = kind == numba.types.float32
    real, word, digits, bias = (np.float32, np.int32, 23, 127) if single else (np.float64, np.int64, 52, 1023)
    # ln 2 in two parts, the first with so few digits that its multiples are exact.
    high, rest = (0.693359375, -2.12194440e-4) if single else (0.6931471803691238, 1.9082149292705877e-10)
    high, rest, inverse = real(high), real(rest), real(1 / math.log(2))  # all stays in one type
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

    @numba.njit(**_OPTIONS)
    def parts(x):
        x = most if x > most else x
        x = -most if x < -most else x
        shifted = x * inverse + rounding
        whole = shifted - rounding
        r = (x - whole * high) - whole * rest
        q = c[1] + r * (c[2] + r * (c[3] + r * (c[4] + r * (c[5] + r * (c[6] + r * tail(r))))))
        scale = word(word(real(shifted).view(word) + bias) << digits).view(real)  # 2 ** whole, by its bits
        return r, q, scale

    return parts


@numba.njit(**_OPTIONS)
def sigmoid(x):
    one = type(x)(1)
    return one / (one + one + _expm1(-x))


@numba.njit(**_OPTIONS)
def tanh(x):
    one = type(x)(1)
    m = _expm1(-(x + x))
    return -m / (one + one + m)


@numba.njit(**_OPTIONS)
def copy(source, target):
    """A slice would be assigned as fast, but numba takes seconds to compile what it says if shapes differ."""
    for i in range(len(target)):
        target[i] = source[i]


@numba.njit(**_OPTIONS)
def add(total, value):
    for i in range(len(total)):
        total[i] += value[i]
