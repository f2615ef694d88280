"""Whether the values of a tensor may decide what the host does next."""

import torch
from torch import Tensor


def may_look(tensor: Tensor) -> bool:
    """Return whether the host may look at a tensor's values. On a GPU it would wait for all work before them, at every
    step of a training; what is exported has none; and under a function transform each is many."""
    return tensor.is_cpu and not torch.compiler.is_exporting() and not transformed()


def transformed() -> bool:
    """Return whether `torch.func.vmap` or another function transform is active. No public name tells; this one takes
    0.1 µs. Inside of one a tensor's type is Tensor as well."""
    return torch._C._functorch.maybe_current_level() is not None
