"""Loops compiled for the CPU by numba, where it is installed; without it everything works as well, and more slowly."""

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor


def compiled() -> bool:
    """Return whether the compiled kernels are in use; where not, tensor operations serve, with equal results."""
    return numba() is not None


def serves(tensor: Tensor) -> bool:
    """Return whether compiled loops can be had for tensors like this one: what subclasses hold, and what function
    transforms and forward-mode differentiation pass on, has no address; and who traces or counts operations is to see
    them all."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    plain = plain and torch._C._functorch.maybe_current_level() is None
    plain = plain and torch.autograd.forward_ad._current_level < 0
    plain = plain and torch._C._get_tracing_state() is None and torch._C._len_torch_dispatch_stack() == 0
    return plain and tensor.dtype in (torch.float32, torch.float64) and compiled()


@functools.cache
def numba() -> Any:
    """Return numba, loaded where it is first needed; None if it cannot be had."""
    try:
        import numba
    except Exception:  # missing, or at odds with the NumPy or the machine it meets
        return None
    return None if getattr(numba.config, "DISABLE_JIT", False) else numba


def native(function: Callable, dtype: torch.dtype, kinds: str, cache: bool = True) -> Any:
    """Compile a function that returns nothing, to be called with addresses. Calls release the GIL.

    (Unpacking tensors, as numba would do it, takes longer than many of the loops.)

    Args:
        function: To be compiled.
        dtype: float32 or float64.
        kinds: Of its arguments, a letter each: p, array of `dtype`; x, number of it; d, float64; n, integer.
        cache: Whether to keep what is compiled for the next process.
    """
    types, single = numba().types, dtype == torch.float32
    real, c_real = (types.float32, ctypes.c_float) if single else (types.float64, ctypes.c_double)
    known: dict[str, tuple[Any, Any]] = {
        "p": (types.CPointer(real), ctypes.c_void_p),
        "x": (real, c_real),
        "d": (types.float64, ctypes.c_double),
        "n": (types.intp, ctypes.c_ssize_t),
    }
    signature = types.void(*(known[kind][0] for kind in kinds))
    options: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
    try:
        loop = numba().cfunc(signature, cache=cache, **options)(function)
    except RuntimeError:  # no folder to keep what is compiled in
        loop = numba().cfunc(signature, **options)(function)
    call: Any = ctypes.CFUNCTYPE(None, *(known[kind][1] for kind in kinds))(loop.address)
    call.loop = loop  # its code lives as long as it does
    return call


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


@functools.cache
def denormals() -> tuple[Any, Any]:
    """Return two functions for compiled loops: one that lets the thread take denormal numbers for 0 and returns its
    mode before, and one that takes it back to a mode. Where the processor is not known they do nothing."""
    from llvmlite import ir
    from numba import extending
    from numba.core import cgutils

    types, x86, arm = numba().types, *(platform.machine().lower() in names for names in (_X86, _ARM))
    word = ir.IntType(32 if x86 else 64)
    kind = types.int32 if x86 else types.int64

    def call(build: Any, name: str, result: Any, *arguments: Any) -> Any:
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        return build.call(build.module.globals.get(name) or ir.Function(build.module, function, name), arguments)

    def read(build: Any) -> Any:
        if arm:
            return call(build, "llvm.aarch64.get.fpcr", word)
        room = cgutils.alloca_once(build, word)
        build.store(word(0), room)
        if x86:
            call(build, "llvm.x86.sse.stmxcsr", ir.VoidType(), build.bitcast(room, ir.IntType(8).as_pointer()))
        return build.load(room)

    def write(build: Any, mode: Any) -> None:
        if arm:
            call(build, "llvm.aarch64.set.fpcr", ir.VoidType(), mode)
        elif x86:
            room = cgutils.alloca_once(build, word)
            build.store(mode, room)
            call(build, "llvm.x86.sse.ldmxcsr", ir.VoidType(), build.bitcast(room, ir.IntType(8).as_pointer()))

    @extending.intrinsic
    def flush(context):
        def code(context, build, signature, args):
            mode = read(build)
            write(build, build.or_(mode, word(0x8040 if x86 else 1 << 24)))
            return mode

        return kind(), code

    @extending.intrinsic
    def restore(context, mode):
        def code(context, build, signature, args):
            write(build, args[0])
            return context.get_dummy_value()

        return types.void(kind), code

    return flush, restore


_X86, _ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
