"""LegS, and JacS of any power p, over signals of any length in constant memory: millions of steps a second, and the
adjoint as fast.

With R_tn = 1/(2t + n + 1 + p), s_n = √(2n + 1 + p) and k_n = 2(n + 1 + p), the bilinear step at time t is a recurrence
over the orders,

    q_n = R_tn (k_n x_n + s_n W_n),   y_n = x_n − q_n,   W_{n+1} = W_n + s_n (x_n + y_n),   W_0 = −2 s_0 f,

and its adjoint, which takes gradients of y to those of x and f, one in the other direction:

    q_n = R_tn (ȳ_n + s_n V_{n+1}),   x̄_n = ȳ_n + 2 s_n V_{n+1} − k_n q_n,   V_n = V_{n+1} − s_n q_n,   f̄ = −2 s_0 V_0.

The loops know LegS: they are given samples s_0 f, the time t + p/2, and tables of s and k.

Order waits for order; but step t + 1 may take an order as soon as step t has left it. So the lanes of a wavefront work
on as many steps: in tick k, lane l is with step t + l at order k − l, and needs what its neighbour has computed in the
tick before. R is one table of reciprocals then, read as it lies. Where a lane has no order yet, or no more, the tables
of s and k hold zeros, and nothing happens. `hippo.kernels.legs.naive.legs_step` is the reference.

One signal of 10⁵ samples takes 1.8 ms with N = 64 and 3.6 ms with N = 256 (float32, one thread of an EPYC); `cpu`,
which works on many signals side by side and finishes each step first, takes 41 and 133 ms.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.common import denormals, native
from hippo.kernels.common.threads import side_by_side

_UNINTERRUPTED = 1 << 30  # coefficients that are updated between two looks at Ctrl-C: some tenths of a second
_CHUNK = 4096  # steps that share a table of reciprocals


@native.opaque
def remember(c: Tensor, f: Tensor, time: float, power: float = 0.0) -> Tensor:
    """Advance coefficients by samples one unit of time apart, with the bilinear transform.

    Gradients of any order reach c and f, but not batched ones. Rows are shared out among torch's threads.

    Args:
        c: Coefficients (B, N) at `time`, of which `native.serves` is true.
        f: Samples (B, L) at time + 1, …, time + L, like c in dtype and device.
        time: At least 0.
        power: Of JacS; 0 of LegS.

    Returns:
        The coefficients (B, N) at time + L.

    Raises:
        ValueError: If c and f are not of these shapes, or compiled loops do not serve them.
    """
    if not (c.dim() == f.dim() == 2 and len(c) == len(f) and native.serves(c, f)):
        raise ValueError(
            f"c {tuple(c.shape)} and f {tuple(f.shape)} must be (B, N) and (B, L), plain tensors on the CPU, both "
            f"float32 or both float64; they are {c.dtype} and {f.dtype} on {c.device} and {f.device}"
        )
    return _Remember.apply(c, f, time, power)  # type: ignore[return-value]


class _Remember(torch.autograd.Function):
    """The map is linear: its gradient is its adjoint, and that one's is the map again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, f: Tensor, time: float, power: float) -> Tensor:
        ctx.length, ctx.time, ctx.power = f.shape[1], time, power
        f = f.detach() * (1 + power) ** 0.5 if power else f.detach()
        return _advance(c.detach(), f if f.stride(1) == 1 else f.contiguous(), time, power, adjoint=False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return *_Adjoint.apply(*grad_outputs, ctx.length, ctx.time, ctx.power), None, None  # type: ignore[misc]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, length: int, time: float, power: float) -> tuple[Tensor, Tensor]:
        ctx.time, ctx.power = time, power
        # It meets the last sample first, and the highest order.
        grad_f = grad.new_empty(len(grad), length)
        grad_c = _advance(grad.detach().flip(-1), grad_f, time + length, power, adjoint=True)
        return grad_c.flip(-1), (grad_f * (1 + power) ** 0.5 if power else grad_f).flip(-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_c, grad_f = grad_outputs
        return remember(grad_c, grad_f, ctx.time, ctx.power), None, None, None


def _advance(c: Tensor, f: Tensor, time: float, power: float, adjoint: bool) -> Tensor:
    """Take c (B, N) over f (B, L); as an adjoint, from `time` back, writing f. What is left of f at the end of a
    wavefront is for a narrower one."""
    vector, count = _registers(c.dtype)
    most = max(1, _UNINTERRUPTED // c.numel())
    for lanes in (vector * count, vector, 1):
        wave = _wave(c.dtype, adjoint, min(lanes, vector), max(lanes // vector, 1))
        while steps := min(f.shape[1], max(most, lanes)) // lanes * lanes:
            c = wave(c, f[:, :steps], time, power)
            f, time = f[:, steps:], time - steps if adjoint else time + steps
    return c.clone(memory_format=torch.contiguous_format)


class _Wave(NamedTuple):
    """A compiled wavefront.

    Attributes:
        loop: See `_compile`.
        lanes: Steps it takes at a time.
        adjoint: Whether it goes back in time.
    """

    loop: Any
    lanes: int
    adjoint: bool

    def __call__(self, c: Tensor, f: Tensor, time: float, power: float) -> Tensor:
        """Take c (B, N) over f (B, L), L a multiple of the lanes."""
        lanes, (count, order), steps = self.lanes, c.shape, f.shape[1]
        threads = max(min(torch.get_num_threads() if f.numel() > _CHUNK else 1, count), 1)
        c = torch.nn.functional.pad(c, (lanes, lanes))
        n = torch.arange(order, dtype=torch.float64, device="cpu")
        s, k = (v if self.adjoint else v.flip(0) for v in (torch.sqrt(2 * n + 1 + power), 2 * n + 2 + 2 * power))
        s, k = (torch.nn.functional.pad(v.to(c.dtype), (lanes, lanes)) for v in (s, k))
        R = c.new_empty(threads, 2 * min(steps, _CHUNK) + order + lanes)
        begin = lanes + order - 1  # where the tables have the order at which a lane begins
        tables, sizes = (s[begin:].data_ptr(), k[begin:].data_ptr()), (_CHUNK // lanes * lanes, order, steps)
        shares = [
            (*(v.data_ptr() for v in rows), *tables, time + power / 2, *sizes, len(rows[0]), c.stride(0), f.stride(0))
            for rows in zip(c.tensor_split(threads), f.tensor_split(threads), R, strict=True)
        ]

        def work(k: int) -> None:
            with denormals.flushed():  # gradients of what is long past fade into them
                self.loop(*shares[k])

        side_by_side(work, threads)
        return c[:, lanes:-lanes]


@functools.cache
def _wave(dtype: torch.dtype, adjoint: bool, vector: int, count: int) -> _Wave:
    return _Wave(_compile(dtype, adjoint, vector, count), vector * count, adjoint)


def _registers(dtype: torch.dtype) -> tuple[int, int]:
    """Return numbers in a vector, and vectors in a wavefront: as many as hide each other's latency in the registers."""
    from llvmlite import binding

    try:
        has = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know the processor
        has = {}
    width, count = (32, 8) if has.get("avx512vl") else (32, 4) if has.get("avx2") else (16, 8)
    return width // dtype.itemsize, count


def _compile(dtype: torch.dtype, adjoint: bool, vector: int, count: int) -> Any:
    """Compile a wavefront of `count` vectors: a function of the addresses of coefficients, samples, space for R, and
    the tables of s and k; of the time, how many steps share R, N, steps, rows, and the distance of rows in c and in
    f."""
    import numba
    from llvmlite import ir
    from numba import extending, types

    intrinsic: Any = extending.intrinsic
    lanes = vector * count
    pointer = types.CPointer(types.float64 if dtype == torch.float64 else types.float32)
    lane = ir.DoubleType() if dtype == torch.float64 else ir.FloatType()
    kind, index = ir.VectorType(lane, vector), ir.IntType(64)
    shifted = ir.Constant(ir.VectorType(ir.IntType(32), vector), list(range(vector - 1, 2 * vector - 1)))
    last = ir.IntType(32)(vector - 1)

    @intrinsic
    def after(context, address, n):
        def code(context, build, signature, args):
            return build.gep(build.inttoptr(args[0], lane.as_pointer()), [args[1]])

        return pointer(address, n), code

    @intrinsic
    def wave(context, c, f, R, s, k, ticks):
        def code(context, build, signature, args):
            c, f, R, s, k, ticks = args

            def at(p, offset, kind=kind):
                return build.bitcast(build.gep(p, [offset]), kind.as_pointer())

            def load(p, offset, kind=kind):
                return build.load(at(p, offset, kind), align=dtype.itemsize)

            fused = {"flags": ["contract"]}  # multiply and add in one instruction, where there is one
            times, plus, minus = (functools.partial(op, **fused) for op in (build.fmul, build.fadd, build.fsub))
            offsets = [index(i * vector) for i in range(count)]
            zero, minus_two = (ir.Constant(kind, [v] * vector) for v in (0.0, -2.0))
            entering = [zero if adjoint else times(minus_two, load(f, offset)) for offset in offsets]
            # A block that is followed by itself, tick for tick; what a tick leaves to the next one are its phi nodes.
            before, body = build.block, build.append_basic_block()
            build.branch(body)
            build.position_at_end(body)
            tick = build.phi(index)
            ys, ws = ([build.phi(kind) for _ in offsets] for _ in range(2))
            coefficient = load(c, build.add(tick, index(lanes)), lane)
            neighbour = build.insert_element(zero, coefficient, last)
            next_ys, next_ws = [], []
            for y, W, offset in zip(ys, ws, offsets, strict=True):
                x = build.shuffle_vector(neighbour, y, shifted)
                S, K = (load(table, build.sub(offset, tick)) for table in (s, k))
                r = load(R, build.add(tick, offset))
                if adjoint:
                    e = plus(times(S, W), x)
                    q = times(r, e)
                    next_ys.append(minus(minus(plus(e, e), x), times(K, q)))
                    next_ws.append(minus(W, times(S, q)))
                else:
                    q = times(r, plus(times(K, x), times(S, W)))
                    next_ys.append(minus(x, q))
                    next_ws.append(plus(W, times(S, plus(x, next_ys[-1]))))
                neighbour = y
            next_tick = build.add(tick, index(1))
            advanced = build.extract_element(next_ys[-1], last)
            build.store(advanced, at(c, next_tick, lane), align=dtype.itemsize)
            first = [index(0), *[zero] * count, *entering]
            for phi, value, following in zip([tick, *ys, *ws], first, [next_tick, *next_ys, *next_ws], strict=True):
                phi.add_incoming(value, before)
                phi.add_incoming(following, body)
            done = build.append_basic_block()
            build.cbranch(build.icmp_signed("<", next_tick, ticks), body, done)
            build.position_at_end(done)
            if adjoint:
                for W, offset in zip(next_ws, offsets, strict=True):
                    build.store(times(minus_two, W), at(f, offset), align=dtype.itemsize)
            return context.get_dummy_value()

        return types.void(c, f, R, s, k, ticks), code

    def loop(c, f, R, s, k, time, chunk, order, steps, rows, c_stride, f_stride):
        table, s_table, k_table = after(R, 0), after(s, 0), after(k, 0)
        for start in range(0, steps, chunk):
            stop = min(start + chunk, steps)
            for i in range(2 * (stop - start) + order + lanes):
                if adjoint:
                    # Beyond the first sample it meets zeros only.
                    table[i] = 1 / max(2 * (time - start) + order - i, 1.0)
                else:
                    table[i] = 1 / (2 * (time + start) + 3 + i)
            for row in range(rows):
                coefficients = after(c, row * c_stride)
                for t in range(start, stop, lanes):
                    samples, reciprocals = after(f, row * f_stride + t), after(R, 2 * (t - start))
                    wave(coefficients, samples, reciprocals, s_table, k_table, order + lanes - 1)

    # Called with addresses, for numba compiles anew, which takes seconds, for each layout of the arrays it gets.
    signature = types.void(*[types.intp] * 5, types.float64, *[types.intp] * 6)
    return numba.njit(signature, nogil=True, fastmath={"contract"}, error_model="numpy")(loop)
