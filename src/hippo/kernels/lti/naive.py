"""The definition of a memory whose step is the same at all times: c_k = Ā c_{k−1} + B̄ f_k."""

import torch
from torch import Tensor


def recurrence(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """Step by step."""
    outputs = []
    for f_k in f.unbind(-1):
        c = torch.addcmul(c @ A.mT, f_k.unsqueeze(-1), B)
        outputs.append(c)
    return torch.stack(outputs, dim=-2)
