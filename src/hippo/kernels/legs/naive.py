"""Steps of LegS in tensor operations, for every generalized bilinear transform, in O(N log N) per sample.

LegS's state matrix is −D − strictly_lower(s sᵀ) with D = diag(1, …, N) and s_n = √(2n+1). With step δ = dt/t,
a = αδ and b = (1−α)δ, the step (I − aA) y = (I + bA) x is one recurrence over the orders n: the running sum
W_n = Σ_{k<n} s_k (b x_k + a y_k) is linear in the one before it, and y_n needs x_n and W_n only:

    y_n = [(1 − b(n+1)) x_n − s_n W_n] / (1 + a(n+1)) = x_n − [δ(n+1) x_n + s_n W_n] / (1 + a(n+1))
    W_{n+1} = [(1 − a n) W_n + δ s_n x_n] / (1 + a(n+1)),   W_0 = 0.

A constant input f is remembered as f e_0, a fixed point of every step, so x is c − f e_0, and c moves as x does.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def legs_step(c: Tensor, f: Tensor, step: Tensor, alpha: float = 0.5) -> Tensor:
    """Advance LegS coefficients by one sample.

    Args:
        c: Coefficients (..., N).
        f: Input (...).
        step: Relative step dt/t, a tensor that broadcasts against f. What depends on it alone is computed in its dtype
            and rounded to that of c at the end: float64 keeps short steps. A step of 0 leaves c exactly as it is.
        alpha: Weight of the implicit side: 0 Euler, 1/2 bilinear, 1 backward Euler.

    Returns:
        The new coefficients (..., N).
    """
    order = c.shape[-1]
    n = torch.arange(order, dtype=step.dtype, device=step.device)
    s, delta = torch.sqrt(2 * n + 1), step.unsqueeze(-1)
    solve = 1 / (1 + alpha * delta * (n + 1))
    gate, weight = (1 - alpha * delta * n) * solve, delta * s * solve
    own, mix = delta * (n + 1) * solve, s * solve
    gate, weight, own, mix = (v.to(c.dtype) for v in (gate, weight, own, mix))
    x = c - pad(f.unsqueeze(-1), (0, order - 1))
    W = pad(_recurrence(gate, weight * x)[..., :-1], (1, 0))
    return c - (own * x + mix * W)


def _recurrence(gate: Tensor, added: Tensor) -> Tensor:
    """Return W_n = gate_n W_{n−1} + added_n (..., N), W_{−1} = 0, in log₂ N rounds: each doubles how far back an entry
    reaches, and `gate` becomes the product of as many gates."""
    reach = 1
    while reach < added.shape[-1]:
        added = torch.addcmul(added, gate, pad(added[..., :-reach], (reach, 0)))
        gate = gate * pad(gate[..., :-reach], (reach, 0))
        reach *= 2
    return added


def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool) -> Tensor:
    """`hippo.kernels.legs.sequence`, sample by sample."""
    outputs = []
    for f_k, step_k in zip(f.unbind(1), step, strict=True):
        c = legs_step(c, f_k, step_k, alpha)
        if every:
            outputs.append(c)
    return torch.stack(outputs, dim=1) if every else c
