"""From the continuous dc/dt = A c + B f to one step c_{k+1} = Ā c_k + B̄ f_k of size dt.

Pure functions (A, B, dt) -> (Ā, B̄), dense and exact to rounding: the reference that every faster path is tested
against. A is (N, N), B is (N,); dt is a number or a tensor (...), and the results are (..., N, N) and (..., N).

For a scale-invariant memory, dc/dt = (A c + B f)/t, the step is relative: dt/t for the generalized bilinear
transform, and log(t_{k+1}/t_k), the step in logarithmic time, for the zero-order hold.

**Energy.** What ‖c‖² says after such steps on samples f_j. LegS has A + Aᵀ = −I − BBᵀ, hence
d(t‖c‖²)/dt = f² − (f − f̂(t))²:

- Zero-order hold: exact for a signal that is constant between samples. ‖c_k‖² is the energy remembered, ∫ f̂² dμ, and at
  most the mean of f_j² so far.
- Backward Euler: at most the mean of f_j² so far.
- Bilinear, and every α ≥ 1/2: at most f_0² + Σ_{j≥1} f_j²/j. Under the bilinear rule the first samples of white
  noise give one and a half times their energy on average where N is large, and up to four times in single signals; a
  smooth signal gives its energy.
- Euler, and every α < 1/2: no bound, as long as dt/t is large for the order.

LegT, FouT, and LagT with α = 0 have θ(A + Aᵀ) ≤ −θ²BBᵀ: under the zero-order hold and every α ≥ 1/2, ‖c‖² is at most
Σ f_j² dt/θ over all samples so far. ChebT, and LagT with another α, break this bound.
"""

import torch
from torch import Tensor


def gbt(A: Tensor, B: Tensor, dt: Tensor | float, alpha: float) -> tuple[Tensor, Tensor]:
    """Generalized bilinear transform: the weight alpha ∈ [0, 1] on the implicit side (arXiv 2008.07669, App. B.3).

    Ā = (I − α dt A)⁻¹ (I + (1−α) dt A),  B̄ = dt (I − α dt A)⁻¹ B.

    Raises:
        ValueError: If alpha lies elsewhere.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 (Euler) and 1 (backward Euler), not {alpha}")
    dt = torch.as_tensor(dt, dtype=A.dtype, device=A.device)
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    dA, dB = dt[..., None, None] * A, dt[..., None] * B
    both = torch.cat([identity + (1 - alpha) * dA, dB[..., None]], dim=-1)
    solved = torch.linalg.solve(identity - alpha * dA, both)
    return solved[..., :-1], solved[..., -1]


def euler(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Forward Euler, explicit; first order, unstable once dt exceeds 2/|λ| for an eigenvalue λ of A."""
    return gbt(A, B, dt, alpha=0.0)


def backward_euler(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Backward Euler, implicit; first order, stable for every dt."""
    return gbt(A, B, dt, alpha=1.0)


def bilinear(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Bilinear (Tustin, trapezoidal); second order, stable for every dt."""
    return gbt(A, B, dt, alpha=0.5)


def zoh(A: Tensor, B: Tensor, dt: Tensor | float) -> tuple[Tensor, Tensor]:
    """Zero-order hold: exact for an input that is constant over the step.

    Ā = e^{dt A},  B̄ = A⁻¹ (e^{dt A} − I) B, taken together from one matrix exponential, so A may be singular.
    """
    dt = torch.as_tensor(dt, dtype=A.dtype, device=A.device)
    order = A.shape[-1]
    augmented = torch.zeros(*dt.shape, order + 1, order + 1, dtype=A.dtype, device=A.device)
    augmented[..., :order, :order] = dt[..., None, None] * A
    augmented[..., :order, order] = dt[..., None] * B
    if augmented.dim() == 2:  # of a single matrix of small norm torch 2.13's matrix_exp is right to 1e-9 only
        exponential = torch.linalg.matrix_exp(augmented.expand(2, -1, -1))[0]
    else:
        exponential = torch.linalg.matrix_exp(augmented)
    return exponential[..., :order, :order], exponential[..., :order, order]
