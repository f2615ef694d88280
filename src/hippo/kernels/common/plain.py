"""Whether a kernel may read a tensor's memory, on any device."""

import torch
from torch import Tensor


def refusal(tensor: Tensor) -> str | None:
    """Return why no kernel may read a tensor, None where one may: what subclasses hold, and what function transforms
    and forward-mode differentiation pass on, has no address; and who traces or counts operations is to see them all."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__} is no plain tensor"
    # Two private names, 0.1 µs a call each; no public one tells either. Inside `torch.func.vmap` or `grad` a tensor's
    # type is Tensor as well, and `data_ptr` raises for those only that the transform has wrapped, whereas our autograd
    # functions raise there for all. Under a dispatch mode (FlopCounterMode, `make_fx` on real tensors) a kernel goes
    # unseen, and `make_fx` takes what it returns for a constant.
    if torch._C._functorch.maybe_current_level() is not None:
        return "a function transform is active"
    if torch._C._len_torch_dispatch_stack():
        return "a dispatch mode sees operations only"
    if torch.jit.is_tracing():
        return "a trace records operations only"
    if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        return "the tensor has a forward-mode tangent"
    return None
