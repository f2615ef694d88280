"""Whether the values of a tensor may decide what the host does next."""

import torch
from torch import Tensor


def may_look(tensor: Tensor) -> bool:
    """Return whether the host may look at a tensor's values. On a GPU it would wait for all work before them, at every
    step of a training; and what is exported has none."""
    return tensor.is_cpu and not torch.compiler.is_exporting()
