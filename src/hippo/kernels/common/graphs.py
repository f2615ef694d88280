"""Work that comes again and again, captured once as a CUDA graph: replayed, thousands of kernels start as one."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Recent(Generic[T]):
    """What has come at least twice lately: graphs are worth capturing for what comes again, and take memory.

    Args:
        size: How many are remembered. The one not seen for longest makes room, whether it has come twice or once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Hashable, T | None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], T]) -> T | None:
        """Return what `make` made when this key came for the second time; None when it comes for the first."""
        with self._lock:
            entry = None
            if key in self._entries:
                entry = self._entries.pop(key) or make()
            self._entries[key] = entry
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return entry


def serves(tensor: Tensor) -> bool:
    """Return whether work on tensors like this one can be captured here and now. Not where somebody handles what is
    kept for the backward pass, as checkpoints do: a graph would keep it from them."""
    if not tensor.is_cuda or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return False
    return not hooked()


def hooked() -> bool:
    """Return whether what autograd saves goes through hooks (`torch.autograd.graph.saved_tensors_hooks`)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def circumstances(tensor: Tensor) -> tuple[Hashable, ...]:
    """Return what a graph depends on beside its tensors."""
    stream = torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
    return tensor.device, stream, torch.get_float32_matmul_precision()


def capture(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that does on the current stream what `function` does, and returns the tensors that it returned
    when it was captured, with what they hold now. What it reads must stay where it is, and the host must not look."""
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
            result = function()

    def replay() -> T:
        graph.replay()
        return result

    return replay


_capturing = threading.Lock()  # CUDA has one capture at a time


@functools.lru_cache(maxsize=8)
def _aside(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    """A stream to capture on; one for each, so that graphs on different streams share no workspace."""
    return torch.cuda.Stream(stream.device)
