"""The gated network step by step, as the equations have it: for every memory, with gradients of any order."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hippo.kernels.gated.steps import Step


def gated(
    from_x: Tensor,
    written_x: Tensor,
    read_c: Tensor,
    write: Tensor,
    transitions: Iterable[Step],
    gate: Callable[[Tensor], Tensor] = torch.sigmoid,
) -> list[Tensor]:
    """Return the hidden states (B, D) after each of L steps, from h = 0 and c = 0; see `hippo.kernels.gated.gated`.

    Args:
        from_x: What x and the biases contribute to [g, z], (L, B, 2D).
        written_x: What x and the bias write to the memory, (L, B).
        read_c: (2D, N).
        write: (D,).
        transitions: The memory's L steps.
        gate: What makes a gate of g.
    """
    h = from_x.new_zeros(from_x.shape[1], len(write))
    c = from_x.new_zeros(from_x.shape[1], read_c.shape[1])
    hidden = []
    for z_x, u_x, advance in zip(from_x, written_x, transitions, strict=True):
        c = advance(c, torch.addmv(u_x, h, write))
        g, candidate = torch.addmm(z_x, c, read_c.mT).chunk(2, dim=-1)
        h = torch.lerp(h, torch.tanh(candidate), gate(g))
        hidden.append(h)
    return hidden
