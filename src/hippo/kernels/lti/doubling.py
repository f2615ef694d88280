"""A time-invariant memory as an associative scan: steps are composed pairwise."""

import torch
from torch import Tensor


def scan(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """By recursive doubling: after round j each entry holds the effect of the 2^j samples up to it."""
    length = f.shape[-1]
    effect = f.unsqueeze(-1) * B
    effect = torch.cat([effect[..., :1, :] + (c @ A.mT).unsqueeze(-2), effect[..., 1:, :]], dim=-2)
    reach = 1
    while reach < length:
        later = torch.addmm(effect[..., reach:, :].flatten(0, -2), effect[..., :-reach, :].flatten(0, -2), A.mT)
        effect = torch.cat([effect[..., :reach, :], later.view_as(effect[..., reach:, :])], dim=-2)
        A, reach = A @ A, 2 * reach
    return effect
