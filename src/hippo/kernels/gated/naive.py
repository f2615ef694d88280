"""The gated network step by step, as the equations have it: for every memory, with gradients of any order."""

from collections.abc import Iterable

import torch
from torch import Tensor

from hippo.kernels import cells
from hippo.kernels.gated.steps import Step


def gated(
    from_x: Tensor,
    written_x: Tensor,
    read_c: Tensor,
    write: Tensor,
    transitions: Iterable[Step],
    gaps: Tensor | None = None,
) -> list[Tensor]:
    """Return the hidden states (B, D) after each of L steps, from h = 0 and c = 0; see `hippo.kernels.gated.gated`.

    Args:
        from_x: What x and the biases contribute to [g, z], (L, B, 2D).
        written_x: What x and the bias write to the memory, (L, B).
        read_c: (2D, N).
        write: (D,).
        transitions: The memory's L steps.
        gaps: As of `hippo.kernels.gated.gated`.
    """
    h = from_x.new_zeros(from_x.shape[1], len(write))
    c = from_x.new_zeros(from_x.shape[1], read_c.shape[1])
    hidden = []
    for t, (z_x, u_x, advance) in enumerate(zip(from_x, written_x, transitions, strict=True)):
        c = advance(c, torch.addmv(u_x, h, write))
        g, candidate = torch.addmm(z_x, c, read_c.mT).chunk(2, dim=-1)
        candidate = torch.tanh(candidate)
        gap = None if gaps is None else gaps[t]
        h = torch.lerp(h, candidate, torch.sigmoid(g)) if gap is None else torch.lerp(candidate, h, cells.kept(-g, gap))
        hidden.append(h)
    return hidden
