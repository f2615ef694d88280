"""One step of the LegS memory in O(N) operations per sample, for every generalized bilinear transform.

LegS's state matrix is −D − strictly_lower(s sᵀ) with D = diag(1, …, N) and s_n = √(2n+1). With step δ = dt/t,
a = αδ and b = (1−α)δ, the step (I − aA) y = (I + bA) x is solved by one sweep over the orders n: the running sum
W_n = Σ_{k<n} s_k (b x_k + a y_k) obeys a scalar linear recurrence, and y_n needs x_n and W_n only:

    y_n = [(1 − b(n+1)) x_n − s_n W_n] / (1 + a(n+1)) = x_n − [δ(n+1) x_n + s_n W_n] / (1 + a(n+1))
    W_{n+1} = [(1 − a n) W_n + δ s_n x_n] / (1 + a(n+1)),   W_0 = 0.

A constant input f is remembered as f e_0, a fixed point of every step, so the input vector is B̄ = (I − Ā) e_0.

`legs_step` is that sweep, as written. `legs_transition` gives the same step as a matrix in sequentially semiseparable
form, which applies as a few batched products: what models use where neither compiled loops (`hippo.kernels.legs.cpu`,
`loop`) nor GPU kernels (`scan`) serve.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hippo.measures import LegS

_BLOCK = 32  # applied to many vectors, whole products pay
_NARROW = 4  # built for one vector each, work and memory are N times the block


def legs_step(c: Tensor, f: Tensor, step: Tensor, alpha: float = 0.5) -> Tensor:
    """Advance LegS coefficients by one sample: the plain sweep, the reference for `legs_transition`.

    Args:
        c: Coefficients (..., N).
        f: Input (...).
        step: Relative step dt/t, a tensor that broadcasts against f.
        alpha: Weight of the implicit side: 0 Euler, 1/2 bilinear, 1 backward Euler.

    Returns:
        The new coefficients (..., N).
    """
    a, b = alpha * step, (1 - alpha) * step
    W = torch.zeros_like(f)
    y = []
    for n, x_n in enumerate(c.unbind(-1)):
        if n == 0:
            x_n = x_n - f
        s_n = (2 * n + 1) ** 0.5
        y.append(((1 - b * (n + 1)) * x_n - s_n * W) / (1 + a * (n + 1)))
        W = ((1 - a * n) * W + step * s_n * x_n) / (1 + a * (n + 1))
    y[0] = y[0] + f
    return torch.stack(y, dim=-1)


class Semiseparable(NamedTuple):
    """A lower-triangular matrix T_nj = mix_n (∏_{j<l<n} gate_l) weight_j for j < n, T_nn = diagonal_n, in O(N) memory.

    It is cut into M blocks of K rows. Inside a block the matrix is dense; across blocks it has rank one, and what
    passes from block to block is again such a matrix, of order M. Leading dimensions (...) batch matrices.

    Attributes:
        blocks: The diagonal blocks (..., M, K, K).
        inward: Effect of what enters a block on its rows (..., M, K).
        outward: Effect of a block's columns on what leaves it (..., M, K).
        carry: The (..., M, M) matrix from what leaves each block to what enters each, or None when M = 1.
    """

    blocks: Tensor
    inward: Tensor
    outward: Tensor
    carry: "Semiseparable | None"

    @classmethod
    def build(cls, diagonal: Tensor, mix: Tensor, gate: Tensor, weight: Tensor, block: int = _BLOCK) -> "Semiseparable":
        """Build from the four sequences (..., N) that define the matrix, in blocks of `block` rows."""
        order = gate.shape[-1]
        block = min(max(block, 2), order)
        padding = -order % block
        diagonal, mix, gate, weight = (
            torch.nn.functional.pad(v, (0, padding)).unflatten(-1, (-1, block)) for v in (diagonal, mix, gate, weight)
        )
        # products[l, j] = ∏_{j≤i≤l} gate_i: column j starts just after row j-1, so column 0 is what enters the block.
        products = gate.unsqueeze(-1).expand(*gate.shape, block).tril()
        products = (products + torch.ones_like(products).triu(1)).cumprod(dim=-2).tril()
        one = torch.ones_like(gate[..., :1])
        entering = torch.cat([one, products[..., :-1, 0]], dim=-1)
        leaving = torch.cat([products[..., -1, 1:], one], dim=-1) * weight
        inside = torch.nn.functional.pad(products[..., :-1, 1:], (0, 1, 1, 0)) + torch.diag(one.new_ones(block - 1), -1)
        blocks = mix.unsqueeze(-1) * inside * weight.unsqueeze(-2) + torch.diag_embed(diagonal)
        through = products[..., -1, 0]
        unit = torch.ones_like(through)
        carry = cls.build(torch.zeros_like(unit), unit, through, unit, block) if through.shape[-1] > 1 else None
        return cls(blocks, mix * entering, leaving, carry)

    def unbind(self) -> list["Semiseparable"]:
        """Split along the first batch dimension, as `Tensor.unbind`."""
        parts = [v.unbind(0) for v in self[:3]]
        carries = self.carry.unbind() if self.carry is not None else [None] * len(parts[0])
        return [Semiseparable(*each) for each in zip(*parts, carries, strict=True)]

    def __matmul__(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Multiply vectors x (..., N), broadcasting batch dimensions: (..., N)."""
        order = x.shape[-1]
        count, block = self.inward.shape[-2:]
        if count * block != order:
            x = torch.nn.functional.pad(x, (0, count * block - order))
        x = x.unflatten(-1, (count, block))
        y = torch.einsum("...mij,...mj->...mi", self.blocks, x)
        if self.carry is not None:
            entering = self.carry @ (self.outward * x).sum(-1)
            y = torch.addcmul(y, self.inward, entering.unsqueeze(-1))
        return y.flatten(-2)[..., :order]


class Transition(NamedTuple):
    """One affine step of a memory, c ↦ Ā c + B̄ f.

    Attributes:
        A: Ā, dense (..., N, N); or, in semiseparable form, Ā − I, which stays accurate where a step is short; or None
            where it is 0: the first step of a memory that forgets whatever c was.
        B: B̄ (..., N).
    """

    A: "Semiseparable | Tensor | None"
    B: Tensor

    def __call__(self, c: Tensor, f: Tensor) -> Tensor:
        """Advance coefficients c (..., N) by the input f (...)."""
        if self.A is None:
            return f.unsqueeze(-1) * self.B
        if isinstance(self.A, Semiseparable):
            moved = c + self.A @ c
        elif self.A.dim() == 2:
            moved = c @ self.A.mT
        else:
            moved = torch.einsum("...ij,...j->...i", self.A, c)
        return torch.addcmul(moved, f.unsqueeze(-1), self.B)

    def unbind(self) -> list["Transition"]:
        """Split a stack of steps along its first dimension, as `Tensor.unbind`."""
        assert self.A is not None
        return [Transition(*each) for each in zip(self.A.unbind(), self.B.unbind(), strict=True)]


def legs_transition(order: int, step: Tensor, alpha: float = 0.5, dtype: torch.dtype | None = None) -> Transition:
    """Return the LegS steps for relative step sizes dt/t of shape (...), each in O(N) memory.

    `step` should be float64; the transition is rounded to `dtype` (default: that of step) once, at the end.
    """
    n = torch.arange(order, dtype=step.dtype, device=step.device)
    delta = step.unsqueeze(-1)
    a = alpha * delta
    solve = 1 / (1 + a * (n + 1))
    s = torch.sqrt(2 * n + 1)
    dtype = dtype or step.dtype
    A = Semiseparable.build(
        diagonal=(-delta * (n + 1) * solve).to(dtype),
        mix=(-s * solve).to(dtype),
        gate=((1 - a * n) * solve).to(dtype),
        weight=(delta * s * solve).to(dtype),
        block=_BLOCK if step.dim() < 2 else _NARROW,
    )
    e_0 = torch.eye(1, order, dtype=dtype, device=step.device)[0].expand(*step.shape, order)
    return Transition(A, -(A @ e_0))


def legs_dilation(order: int, step: Tensor, dtype: torch.dtype | None = None) -> Transition:
    """Return the exact LegS steps (zero-order hold) for relative step sizes dt/t ∈ [0, 1] of shape (...), dense.

    A memory of [0, t − dt] that is read as a memory of [0, t] is the same polynomial, dilated: with r = 1 − dt/t,
    Ā_nm = r ∫_0^1 g_n(r y) g_m(y) dy, which Gauss–Legendre quadrature with N nodes gives without error. It equals
    e^{A log(1/r)}, and is defined at r = 0 too, where everything older is forgotten.
    """
    y, w, values = (v.to(step) for v in _quadrature(order))
    r = (1 - step).unsqueeze(-1)
    dilated = LegS().basis(order, r * y, 1.0)
    A = torch.einsum("...qn,q,qm->...nm", dilated, w, values) * r.unsqueeze(-1)
    e_0 = torch.zeros_like(A[..., 0])
    e_0[..., 0] = 1
    # Where no time passes, nothing changes: not even by the quadrature's rounding.
    A = torch.where((step == 0)[..., None, None], torch.eye(order).to(A), A)
    return Transition(A.to(dtype or step.dtype), (e_0 - A[..., 0]).to(dtype or step.dtype))


@functools.lru_cache(maxsize=8)
def _quadrature(order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss–Legendre nodes (N,) and weights (N,) on [0, 1], and the LegS basis at the nodes (N, N)."""
    with torch.inference_mode(False), torch.device("cpu"):  # what is kept may be needed in training
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(order))
        y = (nodes + 1) / 2
        return y, weights / 2, LegS().basis(order, y, 1.0)
