"""The gated network with a LegS memory over a whole sequence as one compiled loop for the CPU.

It computes what the loops in `hippo.kernels.gated` do, and calls the same matrix products: those of the MKL that torch
brings along. Each thread takes its share of the samples through all steps, so that threads need not wait for each other
once, and nothing is left to an interpreter.
"""

import ctypes
import functools
import itertools
import math
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hippo.kernels import jit
from hippo.kernels.sweep import Sweeps, numbers

if TYPE_CHECKING:
    from hippo.kernels.gated import Inputs, Kept, Operators

_LEAST = 16  # samples that are worth a thread
_SPAN = 8  # steps whose products for the gradient of the weights are done as one


@jit.opaque
def serves(inputs: "Inputs", operators: "Operators") -> bool:
    """Return whether this loop can be had for a sequence, and is made for it."""
    if type(operators) is not Sweeps or not all(map(jit.serves, inputs)) or _library() is None:
        return False
    (length, batch, _), step = inputs.x.shape, operators.step
    alike = {value.dtype for value in (*inputs, step)} == {inputs.x.dtype}
    return alike and step.shape == (length - 1, batch) and step.is_contiguous()


@jit.opaque
def forward(inputs: "Inputs", operators: Sweeps, kept: "Kept") -> Tensor:
    """Fill `kept`, and return the number of threads, (). What a step reads stands in it thread by thread, (L or 2, B,
    R) each, so that steps can be read as one matrix."""
    (x, weight, written, write), (seen, gates, hidden) = (v.contiguous() for v in inputs), kept
    (length, batch, channels), (doubled, rows), order = x.shape, weight.shape, operators.order
    hidden[0].zero_()
    room, c = x.new_empty(2, batch), x.new_zeros(order, batch)
    threads = max(1, min(torch.get_num_threads(), batch // _LEAST))
    arrays = [seen, gates, hidden, x, written, write, weight, operators.step, room, c]
    arrays += [*numbers(order, x.dtype), _constants(x.dtype)]
    sizes = order, channels, rows, doubled // 2, batch, length, len(gates)
    _share(_advance, arrays, [], operators.alpha, sizes, _shares(batch, threads))
    return torch.tensor(threads, device="cpu")


@jit.opaque
def backward(
    inputs: "Inputs", operators: Sweeps, kept: "Kept", threads: Tensor, grad_hidden: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs from those of the L states, None where there is none."""
    (x, weight, _, write), (seen, gates, hidden) = ((v.contiguous() for v in given) for given in (inputs, kept))
    (length, batch, channels), (doubled, rows), order = x.shape, weight.shape, operators.order
    size, shares = doubled // 2, _shares(batch, int(threads))
    grad_x, grad_written = torch.zeros_like(x), x.new_zeros(length, batch)
    grad_h, grad_c, grad_u = x.new_zeros(batch, size), x.new_zeros(order, batch), x.new_zeros(2, batch)
    own = [weight.new_zeros(len(shares), doubled, rows), write.new_zeros(len(shares), size)]
    arrays = [seen, gates, hidden, write, weight, operators.step, grad_u, *numbers(order, x.dtype)]
    arrays += [grad_h, x.new_empty(_SPAN, batch, doubled), grad_c, x.new_empty(batch, rows), grad_x, grad_written]
    tops = [t for t, grad in enumerate(grad_hidden) if grad is not None]
    for top, below in itertools.pairwise([*tops[::-1], -1]):
        grad_h += grad_hidden[top]  # type: ignore[operator]
        sizes = order, channels, rows, size, batch, length, _SPAN, below + 1, top
        _share(_retreat, arrays, own, operators.alpha, sizes, shares)
    grad_weight, grad_write = (v.sum(0) for v in own)
    return grad_x, grad_weight, grad_written, grad_write


def _shares(batch: int, threads: int) -> list[tuple[int, int]]:
    """Return the samples that each thread takes."""
    return list(itertools.pairwise(batch * k // threads for k in range(threads + 1)))


def _share(
    function: Callable,
    arrays: Sequence[Tensor],
    own: Sequence[Tensor],
    alpha: float,
    sizes: tuple[int, ...],
    shares: list[tuple[int, int]],
) -> None:
    """Call a compiled function in several threads, each for its samples, and with a part of its own of some arrays."""
    library, dtype = _library(), arrays[0].dtype
    product = ctypes.cast(library.sgemm_ if dtype == torch.float32 else library.dgemm_, ctypes.c_void_p).value
    compiled = _compile(function, dtype, len(arrays) + len(own), len(sizes) + 2)
    threads = max(1, torch.get_num_threads() // len(shares))

    def work(k: int) -> None:
        before = library.MKL_Set_Num_Threads_Local(threads)
        try:
            compiled(*(v.data_ptr() for v in (*arrays, *(v[k] for v in own))), product, alpha, *sizes, *shares[k])
        finally:
            library.MKL_Set_Num_Threads_Local(before)

    jit.side_by_side(work, len(shares))


@functools.cache
def _library() -> Any:
    """Return the library of torch with its matrix products, None where that is not MKL."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        return library if all(map(library.__getattr__, _NEEDED)) else None
    except (AttributeError, OSError):
        return None


_NEEDED = ("sgemm_", "dgemm_", "MKL_Set_Num_Threads_Local")


@functools.cache
def _compile(function: Callable, dtype: torch.dtype, arrays: int, sizes: int) -> Callable:
    functions = {"gemm": _gemm(), "expm1": _expm1(dtype)}
    bound = types.FunctionType(function.__code__, functions, function.__name__)
    bound.__module__, bound.__qualname__ = function.__module__, function.__qualname__
    return jit.native(bound, dtype, arrays * "p" + "nx" + sizes * "n")


@functools.lru_cache(maxsize=4)
def _constants(dtype: torch.dtype) -> Tensor:
    """What e^x is computed with: its Taylor series, 1/ln 2, ln 2 in two parts, what rounds to whole numbers when it is
    added, and the largest x."""
    digits, high, rest, most = 52, 0.6931471803691238, 1.9082149292705877e-10, 700.0
    if dtype == torch.float32:
        digits, high, rest, most = 23, 0.693359375, -2.12194440e-4, 85.0
    with torch.inference_mode(False):
        series = [1 / math.factorial(n) for n in range(14)]
        return torch.tensor([*series, 1 / math.log(2), high, rest, 1.5 * 2.0**digits, most], dtype=dtype, device="cpu")


def _expm1(dtype: torch.dtype) -> Any:
    """Return a function for compiled loops: e^x − 1, that compilers make vector instructions of; NaN stays NaN."""
    single, power_of_two = dtype == torch.float32, _power_of_two()

    @jit.numba().njit
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

    return expm1


def _gemm() -> Any:
    """Return a function for compiled loops: C ← A B + beta C, column by column as in Fortran."""
    from llvmlite import ir
    from numba import extending
    from numba.core import cgutils

    numba_types = jit.numba().types

    @extending.intrinsic
    def gemm(context, address, mode_a, mode_b, m, n, k, one, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
        def code(context, build, signature, args):
            byte = ir.IntType(8).as_pointer()

            def passed(value, kind):
                room = cgutils.alloca_once(build, kind)
                build.store(build.trunc(value, kind) if kind == character else value, room)
                return build.bitcast(room, byte)

            def at(array, offset):
                return build.bitcast(build.gep(array, [offset]), byte)

            function, ta, tb, m, n, k, one, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc = args
            character, whole = ir.IntType(8), ir.IntType(64)  # most MKL reads the first half
            arguments = [passed(ta, character), passed(tb, character), *(passed(v, whole) for v in (m, n, k))]
            arguments += [passed(one, one.type), at(a, a_at), passed(lda, whole), at(b, b_at), passed(ldb, whole)]
            arguments += [passed(beta, beta.type), at(c, c_at), passed(ldc, whole)]
            kind = ir.FunctionType(ir.VoidType(), [byte] * len(arguments)).as_pointer()
            build.call(build.inttoptr(function, kind), arguments)
            return context.get_dummy_value()

        size = numba_types.intp
        sizes = [size] * 6
        kinds = [*sizes, one, a, size, size, b, size, size, beta, c, size, size]
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


# The functions that follow are given these where they are compiled. 84 and 78 are "T" and "N".
gemm: Any = None
expm1: Any = None


def _advance(
    seen, gates, hidden, x, written, write, weight, step, room, c, k, s, e,
    product, alpha, order, channels, rows, size, batch, length, kept, begin, end,
):  # fmt: skip
    """All steps for the samples from `begin` to `end`. `room` holds u, and what is carried from order to order; c, the
    coefficients (N, B)."""
    zero, one, two, count = k[0], k[1], k[1] + k[1], end - begin
    constants = (
        e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], e[9],
        e[10], e[11], e[12], e[13], e[14], e[15], e[16], e[17], e[18],
    )  # fmt: skip
    for t in range(length):
        h, now, here = t * batch * size, t * batch, (kept * begin + (t % kept) * count - begin) * rows
        for b in range(begin, end):
            room[b] = written[now + b]
        gemm(
            product, 84, 78, count, 1, size, one, hidden, h + begin * size, size,
            write, 0, size, one, room, begin, batch,
        )  # fmt: skip
        if t == 0:
            for b in range(begin, end):
                c[b] = room[b]
        else:
            for b in range(begin, end):
                y, d = c[b], step[now - batch + b]
                w = d * (y - room[b]) / (one + alpha * d)
                c[b] = y - w
                room[batch + b] = w
            for n in range(1, order):
                low, above, root, row = k[n], k[n + 1], s[n], n * batch
                for b in range(begin, end):
                    y, d, w = c[row + b], step[now - batch + b], room[batch + b]
                    solve = one / (one + alpha * d * above)
                    c[row + b] = y - (d * above * y + root * w) * solve
                    room[batch + b] = ((one - alpha * d * low) * w + d * root * y) * solve
        for block in range(0, order, 16):  # whole cache lines
            for b in range(begin, end):
                for n in range(block, min(block + 16, order)):
                    seen[here + b * rows + n] = c[n * batch + b]
        for b in range(begin, end):
            for i in range(order, rows):
                seen[here + b * rows + i] = zero
            for i in range(channels):
                seen[here + b * rows + order + i] = x[(now + b) * channels + i]
            seen[here + b * rows + order + channels] = one

        z = (t % kept) * batch * 2 * size
        gemm(
            product, 84, 78, 2 * size, count, rows, one, weight, 0, rows,
            seen, here + begin * rows, rows, zero, gates, z + begin * 2 * size, 2 * size,
        )  # fmt: skip
        for b in range(begin, end):
            row, start = h + b * size, z + b * 2 * size
            for i in range(size):
                gates[start + i] = one / (two + expm1(-gates[start + i], constants))  # σ
            for i in range(start + size, start + 2 * size):
                m = expm1(-two * gates[i], constants)
                gates[i] = -m / (two + m)  # tanh
            for i in range(size):
                g, candidate, past = gates[start + i], gates[start + size + i], hidden[row + i]
                hidden[row + batch * size + i] = past + g * (candidate - past)


def _retreat(
    seen, gates, hidden, write, weight, step, room, k, s, grad_h, grad_z, grad_c, grad_seen, grad_x, grad_written,
    grad_weight, grad_write,
    product, alpha, order, channels, rows, size, batch, length, span, bottom, top, begin, end,
):  # fmt: skip
    """The steps from `top` down to `bottom`. `room` holds u's gradient, and what is carried from order to order."""
    zero, one, count = k[0], k[1], end - begin
    for back in range(top - bottom + 1):
        t = top - back
        h, now, z, past = t * batch * size, t * batch, t * batch * 2 * size, t % span
        first = (span * begin + past * count) * 2 * size
        for b in range(begin, end):
            row, at, to, entered = b * size, z + b * 2 * size, first + (b - begin) * 2 * size, room[b]
            for i in range(size):
                g, candidate = gates[at + i], gates[at + size + i]
                total = grad_h[row + i] + write[i] * entered
                passed = total * g
                grad_z[to + i] = (candidate - hidden[h + row + i]) * passed * (one - g)
                grad_z[to + size + i] = passed * (one - candidate * candidate)
                grad_h[row + i] = total - passed
        if past == 0 or t == bottom:
            steps = min(span - past, top - t + 1)
            gemm(
                product, 78, 84, rows, 2 * size, steps * count, one, seen, (length * begin + t * count) * rows, rows,
                grad_z, first, 2 * size, one, grad_weight, 0, rows,
            )  # fmt: skip
        gemm(
            product, 78, 78, rows, count, 2 * size, one, weight, 0, rows,
            grad_z, first, 2 * size, zero, grad_seen, begin * rows, rows,
        )  # fmt: skip

        for b in range(begin, end):
            room[batch + b] = zero
        for down in range(1, order + 1):
            n = int(k[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
            for b in range(begin, end):
                grad_c[n * batch + b] += grad_seen[b * rows + n]
            if t > 0 and n > 0:
                low, high, root, row = k[n], k[n + 1], s[n], n * batch
                for b in range(begin, end):
                    c, d, v = grad_c[row + b], step[now - batch + b], room[batch + b]
                    solve = one / (one + alpha * d * high)
                    grad_c[row + b] = c - d * (high * c - root * v) * solve
                    room[batch + b] = ((one - alpha * d * low) * v - root * c) * solve
        for b in range(begin, end):
            moved = grad_c[b]
            if t > 0:
                c, d = grad_c[b], step[now - batch + b]
                moved = d * (c - room[batch + b]) / (one + alpha * d)
                grad_c[b] = c - moved
            room[b] = moved
            grad_written[now + b] = moved
        for b in range(begin, end):
            for channel in range(channels):
                grad_x[(now + b) * channels + channel] = grad_seen[b * rows + order + channel]
            entered = room[b]
            for i in range(size):
                grad_write[i] += entered * hidden[h + b * size + i]
