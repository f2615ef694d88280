"""Work that comes again and again, captured once as a CUDA graph: replayed, hundreds of kernels start as one."""

import functools
import threading
import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


def try_capture(function: Callable[[], None]) -> Callable[[], None] | None:
    """Return what `capture` returns; None, with a warning the first time, where the function cannot be captured."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return None  # it becomes part of a graph of somebody else's
    try:
        return capture(function)
    except RuntimeError as error:
        _warn_once(error)
        return None


def circumstances(tensor: Tensor) -> tuple[Hashable, ...]:
    """Return what a graph depends on beside what it reads: where it runs, and settings that choose kernels."""
    stream = torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return (
        tensor.device,
        stream,
        capturing,
        torch.backends.fp32_precision,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
    )


def capture(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does on the current stream what `function` does, which is called once or twice to begin
    with. What it reads and writes must stay where it is, and the host must not look.

    Raises:
        RuntimeError: If the function does what a graph cannot hold.
    """
    now = torch.cuda.current_stream()
    aside = _aside(now)
    graph = torch.cuda.CUDAGraph()
    with _capturing:
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            function()  # what is built or loaded at the first call cannot be captured
        now.wait_stream(aside)
        # Other threads, such as those that pin memory for a loader, may go on meanwhile.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            function()
    return graph.replay


_capturing = threading.Lock()  # CUDA has one capture at a time


@functools.lru_cache(maxsize=8)
def _aside(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    """A stream to capture on; one for each, so that graphs on different streams share no workspace."""
    return torch.cuda.Stream(stream.device)


_warned = threading.Event()


def _warn_once(error: RuntimeError) -> None:
    if not _warned.is_set():
        _warned.set()
        warnings.warn(
            f"no CUDA graph could be captured, so each kernel is started by itself, which is slower; another program "
            f"on the GPU or little free memory may be why: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
