"""Loops compiled for the CPU by numba, where it is installed; without it everything works as well, and more slowly."""

import ctypes
import functools
import platform
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compiled() -> bool:
    """Return whether the compiled kernels are in use; where not, tensor operations serve, with equal results."""
    return numba() is not None


def refusal(tensor: Tensor) -> str | None:
    """Return why compiled loops cannot be had for tensors like this one, None where they can: what subclasses hold, and
    what function transforms and forward-mode differentiation pass on, has no address; and who traces or counts
    operations is to see them all."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__} is no plain tensor"
    if not tensor.is_cpu:
        return f"the tensor is on {tensor.device}, and compiled loops are for the CPU"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"compiled loops are for float32 and float64, not {tensor.dtype}"
    # Two private names. No public function tells whether a function transform (torch.func) or a dispatch mode (such as
    # FlopCounterMode, or make_fx on real tensors) is active, and under one our autograd functions raise, under the
    # other they go unseen. Together they take 0.1 µs.
    if torch._C._functorch.maybe_current_level() is not None:
        return "a function transform is active"
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode sees operations only"
    if torch.jit.is_tracing():
        return "a trace records operations only"
    if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        return "the tensor has a forward-mode tangent"
    if not compiled():
        return "numba is not installed, or switched off"
    return None


@functools.cache
def numba() -> Any:
    """Return numba, loaded where it is first needed; None if it cannot be had."""
    try:
        import numba
    except Exception:  # missing, or at odds with the NumPy or the machine it meets
        return None
    return None if getattr(numba.config, "DISABLE_JIT", False) else numba


def build(function: Callable, dtype: torch.dtype, kinds: str, cache: bool = True) -> Any:
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


@opaque
def serves(*tensors: Tensor | None) -> bool:
    """Return whether compiled loops can be had for tensors like these, all of one dtype, and where there is None."""
    present = [tensor for tensor in tensors if tensor is not None]
    return len({tensor.dtype for tensor in present}) == 1 and not any(map(refusal, present))


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
        slot = cgutils.alloca_once(build, word)
        build.store(word(0), slot)
        if x86:
            call(build, "llvm.x86.sse.stmxcsr", ir.VoidType(), build.bitcast(slot, ir.IntType(8).as_pointer()))
        return build.load(slot)

    def write(build: Any, mode: Any) -> None:
        if arm:
            call(build, "llvm.aarch64.set.fpcr", ir.VoidType(), mode)
        elif x86:
            slot = cgutils.alloca_once(build, word)
            build.store(mode, slot)
            call(build, "llvm.x86.sse.ldmxcsr", ir.VoidType(), build.bitcast(slot, ir.IntType(8).as_pointer()))

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
