"""The matrix-state recurrences step by step, and the first of them as one masked product: the references.

Shapes are those of `hippo.kernels.matrix_state`, but that heads do not share q and k here.
"""

import torch
from torch import Tensor


def decayed_loop(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_t = e^{g_t} S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t, as written; log_decay (B, L, H) or (B, L, H, N)."""
    outputs = []
    for t in range(q.shape[1]):
        decay = log_decay[:, t].exp()
        decay = decay[..., None] if decay.dim() == 3 else decay[..., None, None]
        state = decay * state + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(recall(state, q[:, t]))
    return torch.stack(outputs, 1), state


def decayed_quadratic(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """The same outputs from S_0 = 0 as attention: O = (Q Kᵀ ∘ D) V, D_ij = e^{Σ_{j<l≤i} g_l} for j ≤ i, else 0."""
    steps = torch.arange(q.shape[1], device=q.device)
    past = (steps[None, :, None] < steps[None, None, :]) & (steps[None, None, :] <= steps[:, None, None])  # j < l ≤ i
    decay = torch.einsum("ijl,bl...->bij...", past.to(q), log_decay).exp()
    decay = decay if decay.dim() == 5 else decay.unsqueeze(-1)
    scores = torch.einsum("bihn,bjhn,bijhn->bhij", q, k, decay.expand(*decay.shape[:4], q.shape[-1]))
    return torch.einsum("bhij,bjhp->bihp", scores.tril(), v)


def delta_loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, read: Tensor, write: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t}) S_{t−1} + write_t (S_{t−1}ᵀ read_t)ᵀ + k_t v_tᵀ, o_t = S_tᵀ q_t, as written."""
    outputs = []
    for t in range(q.shape[1]):
        recalled = recall(state, read[:, t])
        state = log_decay[:, t].exp().unsqueeze(-1) * state
        state = (
            state + write[:, t].unsqueeze(-1) * recalled.unsqueeze(-2) + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        )
        outputs.append(recall(state, q[:, t]))
    return torch.stack(outputs, 1), state


def recall(state: Tensor, query: Tensor) -> Tensor:
    """Sᵀ q, (B, H, P)."""
    return (query.unsqueeze(-2) @ state).squeeze(-2)
