"""Whether a kernel may read a tensor's memory, on any device."""

import torch
from torch import Tensor

from hippo.values import transformed


def refusal(tensor: Tensor) -> str | None:
    """Return why no kernel may read a tensor, None where one may: what subclasses hold, and what function transforms
    and forward-mode differentiation pass on, has no address; and who traces or counts operations is to see them all."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__} is no plain tensor"
    # Under a transform `data_ptr` raises for those tensors only that it has wrapped, our autograd functions for all.
    if transformed():
        return "a function transform is active"
    # A private name, 0.1 µs a call; no public one tells. Under a dispatch mode (FlopCounterMode, `make_fx` on real
    # tensors) a kernel goes unseen, and `make_fx` takes what it returns for a constant.
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode sees operations only"
    if torch.jit.is_tracing():
        return "a trace records operations only"
    if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        return "the tensor has a forward-mode tangent"
    return None
