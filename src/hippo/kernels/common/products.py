"""Matrix products and e^x for loops that are compiled for the CPU, and threads that take their share of the samples.

The products are those of the MKL that torch brings along. A loop over a whole sequence calls them itself: threads need
not wait for each other once, and nothing is left to an interpreter.
"""

import ctypes
import functools
import hashlib
import itertools
import math
import pkgutil
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hippo.kernels.common import compile as jit
from hippo.kernels.common.threads import side_by_side

_LEAST = 16  # samples that are worth a thread


def threads(batch: int) -> int:
    """Return how many threads are worth it."""
    return max(1, min(torch.get_num_threads(), batch // _LEAST))


def shares(batch: int, threads: int) -> list[tuple[int, int]]:
    """Return the samples that each thread takes."""
    return list(itertools.pairwise(batch * k // threads for k in range(threads + 1)))


def share(
    function: Callable,
    arrays: Sequence[Tensor],
    own: Sequence[Tensor],
    alpha: float,
    sizes: tuple[int, ...],
    shares: list[tuple[int, int]],
) -> None:
    """Compile a function, and call it in several threads, each for its samples.

    Args:
        function: Of addresses, the product that `gemm` needs, alpha, sizes, and the first of the samples and the one
            after the last. What it calls, see `_given`.
        arrays: Arrays, all of one dtype.
        own: Arrays of which each thread gets a part of its own.
        alpha: A number.
        sizes: Whole numbers.
        shares: The samples that each thread takes.
    """
    mkl, dtype = library(), arrays[0].dtype
    product = ctypes.cast(mkl.sgemm_ if dtype == torch.float32 else mkl.dgemm_, ctypes.c_void_p).value
    compiled = _compile(function, dtype, len(arrays) + len(own), len(sizes) + 2)
    threads = max(1, torch.get_num_threads() // len(shares))

    def work(k: int) -> None:
        before = mkl.MKL_Set_Num_Threads_Local(threads)
        try:
            compiled(*(v.data_ptr() for v in (*arrays, *(v[k] for v in own))), product, alpha, *sizes, *shares[k])
        finally:
            mkl.MKL_Set_Num_Threads_Local(before)

    side_by_side(work, len(shares))


@functools.cache
def library() -> Any:
    """Return the library of torch with its matrix products, None where that is not MKL."""
    try:
        mkl = ctypes.CDLL(torch._C.__file__)
        return mkl if all(map(mkl.__getattr__, _NEEDED)) else None
    except (AttributeError, OSError):
        return None


_NEEDED = ("sgemm_", "dgemm_", "MKL_Set_Num_Threads_Local")


@functools.cache
def _compile(function: Callable, dtype: torch.dtype, arrays: int, sizes: int) -> Callable:
    bound = types.FunctionType(function.__code__, _given(dtype), function.__name__)
    bound.__module__, bound.__qualname__ = function.__module__, f"{function.__qualname__}_{_version()}"
    return jit.native(bound, dtype, arrays * "p" + "nx" + sizes * "n")


@functools.cache
def _version() -> str:
    """Return what changes with this file and the next: numba keeps what it has compiled until the loop's file does."""
    parts = [pkgutil.get_data("hippo.kernels", name) or b"" for name in ("common/products.py", "common/compile.py")]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:8]


@functools.lru_cache(maxsize=4)
def constants(dtype: torch.dtype) -> Tensor:
    """What e^x is computed with: its Taylor series, 1/ln 2, ln 2 in two parts, what rounds to whole numbers when it is
    added, and the largest x."""
    digits, high, rest, most = 52, 0.6931471803691238, 1.9082149292705877e-10, 700.0
    if dtype == torch.float32:
        digits, high, rest, most = 23, 0.693359375, -2.12194440e-4, 85.0
    with torch.inference_mode(False):
        series = [1 / math.factorial(n) for n in range(14)]
        return torch.tensor([*series, 1 / math.log(2), high, rest, 1.5 * 2.0**digits, most], dtype=dtype, device="cpu")


def _given(dtype: torch.dtype) -> dict[str, Any]:
    """Return what compiled loops call.

    `values(e)` reads `constants`, which the others take as their last argument: `expm1`, e^x − 1; `sigmoid`; `tanh`.
    Compilers make vector instructions of these, and NaN stays NaN. For weights (Z, K), and `count` rows that begin `at`
    somewhere and are `row` apart, `linear` is y ← x Wᵀ + beta y, and `linear_adjoint` y ← g W + beta y. `gemm`: see
    there.
    """
    njit, single, power_of_two, gemm = jit.numba().njit, dtype == torch.float32, _power_of_two(), _gemm()

    @njit
    def values(e):
        return (
            e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], e[9],
            e[10], e[11], e[12], e[13], e[14], e[15], e[16], e[17], e[18],
        )  # fmt: skip

    @njit
    def expm1(x, e):
        inverse, high, rest, shift, most = e[14], e[15], e[16], e[17], e[18]
        x = most if x > most else x
        x = -most if x < -most else x
        shifted = x * inverse + shift
        whole = shifted - shift
        r = (x - whole * high) - whole * rest
        p = e[7]
        if not single:
            p = p + r * (e[8] + r * (e[9] + r * (e[10] + r * (e[11] + r * (e[12] + r * e[13])))))
        p = r * (e[1] + r * (e[2] + r * (e[3] + r * (e[4] + r * (e[5] + r * (e[6] + r * p))))))
        scale = power_of_two(shifted)
        return p * scale + (scale - e[0])

    @njit
    def sigmoid(x, e):
        return e[0] / (e[0] + e[0] + expm1(-x, e))

    @njit
    def tanh(x, e):
        m = expm1(-(x + x), e)
        return -m / (e[0] + e[0] + m)

    @njit
    def linear(product, weight, z, k, x, x_at, x_row, count, beta, y, y_at, y_row):
        gemm(product, 84, 78, z, count, k, weight, 0, k, x, x_at, x_row, beta, y, y_at, y_row)

    @njit
    def linear_adjoint(product, weight, z, k, g, g_at, g_row, count, beta, y, y_at, y_row):
        gemm(product, 78, 78, k, count, z, weight, 0, k, g, g_at, g_row, beta, y, y_at, y_row)

    functions = values, expm1, sigmoid, tanh, linear, linear_adjoint
    return {"gemm": gemm} | {function.__name__: function for function in functions}


def _gemm() -> Any:
    """Return a function for compiled loops: C ← A B + beta C, column by column as in Fortran; modes are 84 and 78, "T"
    and "N"."""
    from llvmlite import ir
    from numba import extending
    from numba.core import cgutils

    numba_types = jit.numba().types

    @extending.intrinsic
    def gemm(context, address, mode_a, mode_b, m, n, k, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
        def code(context, build, signature, args):
            byte = ir.IntType(8).as_pointer()

            def passed(value, kind):
                room = cgutils.alloca_once(build, kind)
                build.store(build.trunc(value, kind) if kind == character else value, room)
                return build.bitcast(room, byte)

            def at(array, offset):
                return build.bitcast(build.gep(array, [offset]), byte)

            function, ta, tb, m, n, k, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc = args
            character, whole = ir.IntType(8), ir.IntType(64)  # most MKL reads the first half
            arguments = [passed(ta, character), passed(tb, character), *(passed(v, whole) for v in (m, n, k))]
            arguments += [
                passed(beta.type(1), beta.type),
                at(a, a_at),
                passed(lda, whole),
                at(b, b_at),
                passed(ldb, whole),
            ]
            arguments += [passed(beta, beta.type), at(c, c_at), passed(ldc, whole)]
            kind = ir.FunctionType(ir.VoidType(), [byte] * len(arguments)).as_pointer()
            build.call(build.inttoptr(function, kind), arguments)
            return context.get_dummy_value()

        size = numba_types.intp
        sizes = [size] * 6
        kinds = [*sizes, a, size, size, b, size, size, beta, c, size, size]
        return numba_types.void(*kinds), code

    return gemm


def _power_of_two() -> Any:
    """Return a function for compiled loops: 2^n from n + 1.5 · 2^d, where d is the number of digits of the type."""
    from llvmlite import ir
    from numba import extending

    @extending.intrinsic
    def power_of_two(context, shifted):
        def code(context, build, signature, args):
            single = isinstance(args[0].type, ir.FloatType)
            word, digits, bias = (ir.IntType(32), 23, 127) if single else (ir.IntType(64), 52, 1023)
            bits = build.add(build.bitcast(args[0], word), word(bias))
            return build.bitcast(build.shl(bits, word(digits)), args[0].type)

        return shifted(shifted), code

    return power_of_two


# What compiled loops call, for them to import: see `_given`.
gemm: Any = None
linear: Any = None
linear_adjoint: Any = None
sigmoid: Any = None
tanh: Any = None
values: Any = None
