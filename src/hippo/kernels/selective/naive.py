"""The selective scan step by step: the reference."""

import torch
from torch import Tensor


def loop(u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = e^{Δ_t A} h_{t−1} + Δ_t u_t B_tᵀ, y_t = h_t C_t, as written; shapes as in `hippo.kernels.selective`."""
    outputs = []
    for t in range(u.shape[1]):
        dt = step[:, t].unsqueeze(-1)
        state = torch.exp(dt * A) * state + dt * u[:, t].unsqueeze(-1) * B[:, t].unsqueeze(-2)
        outputs.append((state * C[:, t].unsqueeze(-2)).sum(-1))
    return torch.stack(outputs, 1), state
