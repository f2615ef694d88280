"""Memory for what a sequence computes, which the next one gets again.

The system zeroes every page that a process asks for anew, which takes as long as a training step's arithmetic. So the
latest few blocks that nobody holds any more are kept. On a GPU the framework does the same.
"""

import weakref

import torch
from torch import Tensor

from hippo.kernels.common import native

_KEPT = 4
_spare: dict[int, Tensor] = {}  # blocks come back from any thread, at any time: even while it is looked through


@native.opaque
def empty(size: int, like: Tensor) -> Tensor:
    """Return a tensor (size,) of any content, like another one in dtype and device."""
    if type(like) not in (Tensor, torch.nn.Parameter) or like.device.type != "cpu":
        return like.new_empty(size)
    spare = ((key, _spare.get(key)) for key in list(_spare))
    fitting = [
        (len(b), key) for key, b in spare if b is not None and b.dtype == like.dtype and size <= len(b) <= 2 * size
    ]
    block = _spare.pop(min(fitting)[1], None) if fitting else None
    if block is None:
        with torch.inference_mode(False):
            block = torch.empty(size, dtype=like.dtype, device="cpu")
    view = block[:size].numpy()
    held = weakref.finalize(view, _give_back, block)  # by the tensor, and whatever is cut from it
    held.atexit = False  # type: ignore[misc]
    return torch.from_numpy(view)


def _give_back(block: Tensor) -> None:
    _spare[id(block)] = block
    for key in list(_spare)[:-_KEPT]:
        _spare.pop(key, None)
