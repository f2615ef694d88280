"""Steps of LegS in tensor operations, for every generalized bilinear transform, in O(N log N) per sample; and of JacS,
of which LegS has the power p = 0.

The state matrix is −D − strictly_lower(s sᵀ) with d_n = n + 1 + p and s_n = √(2n + 1 + p). With step δ = dt/t, a = αδ
and b = (1−α)δ, the step (I − aA) y = (I + bA) x is one recurrence over the orders n: the running sum
W_n = Σ_{k<n} s_k (b x_k + a y_k) is linear in the one before it, and y_n needs x_n and W_n only. Since s_n² − d_n = n,

    y_n = [(1 − b d_n) x_n − s_n W_n] / (1 + a d_n) = x_n − [δ d_n x_n + s_n W_n] / (1 + a d_n)
    W_{n+1} = [(1 − a n) W_n + δ s_n x_n] / (1 + a d_n),   W_0 = 0.

A constant input f is remembered as f e_0, a fixed point of every step, so x is c − f e_0, and c moves as x does.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_TOGETHER = 512  # steps that are prepared in one go: enough to amortise the calls, little enough to hold


class LegSStep(NamedTuple):
    """What a step, or a stack of steps, does: c ↦ c − (own x + mix W), where W_{n+1} = gate_n W_n + weight_n x_n.

    Attributes:
        own: δ d_n / (1 + a d_n), (..., N).
        mix: s_n / (1 + a d_n), (..., N).
        weight: δ s_n / (1 + a d_n), (..., N).
        gates: Products of 1, 2, 4, … gates in a row, the last of them gate_n = (1 − a n) / (1 + a d_n); each (..., N),
            and 0 where a product would begin before the first.
    """

    own: Tensor
    mix: Tensor
    weight: Tensor
    gates: tuple[Tensor, ...]

    @classmethod
    def of(cls, order: int, step: Tensor, alpha: float, dtype: torch.dtype, power: float = 0.0) -> "LegSStep":
        """Return the steps of relative sizes dt/t (...): computed in the dtype of `step`, and rounded once, at the end,
        so that float64 keeps short steps."""
        n = torch.arange(order, dtype=step.dtype, device=step.device)
        d, s, delta = n + (1 + power), torch.sqrt(2 * n + (1 + power)), step.unsqueeze(-1)
        solve = 1 / (1 + alpha * delta * d)
        gate, gates = (1 - alpha * delta * n) * solve, []
        while (reach := 1 << len(gates)) < order:
            gates.append(gate)
            gate = gate * pad(gate[..., :-reach], (reach, 0))
        parts = delta * d * solve, s * solve, delta * s * solve, *gates
        own, mix, weight, *gates = (v.to(dtype) for v in parts)
        return cls(own, mix, weight, tuple(gates))

    def unbind(self) -> "list[LegSStep]":
        """Split along the first dimension, as `Tensor.unbind`."""
        parts = zip(*(v.unbind() for v in (*self[:3], *self.gates)), strict=True)
        return [LegSStep(own, mix, weight, tuple(gates)) for own, mix, weight, *gates in parts]

    def __call__(self, c: Tensor, f: Tensor) -> Tensor:
        """Advance coefficients c (..., N) by the input f (...). A step of 0 leaves them exactly as they are."""
        x = c - pad(f.unsqueeze(-1), (0, c.shape[-1] - 1))
        W = self.weight * x  # W_1, …, W_N: in each round an entry reaches twice as far back
        for k, gate in enumerate(self.gates):
            W = torch.addcmul(W, gate, pad(W[..., : -1 << k], (1 << k, 0)))
        return c - torch.addcmul(self.own * x, self.mix, pad(W[..., :-1], (1, 0)))


def legs_step(c: Tensor, f: Tensor, step: Tensor, alpha: float = 0.5, power: float = 0.0) -> Tensor:
    """Advance coefficients by one sample.

    Args:
        c: Coefficients (..., N).
        f: Input (...).
        step: Relative step dt/t, a tensor that broadcasts against f; in float64 at best, see `LegSStep.of`.
        alpha: Weight of the implicit side: 0 Euler, 1/2 bilinear, 1 backward Euler.
        power: Of JacS; 0 of LegS.

    Returns:
        The new coefficients (..., N).
    """
    return LegSStep.of(c.shape[-1], step, alpha, c.dtype, power)(c, f)


def legs_steps(order: int, step: Tensor, alpha: float, dtype: torch.dtype, power: float = 0.0) -> Iterator[LegSStep]:
    """Yield the steps of relative sizes (L, ...), one by one."""
    for some in step.split(max(1, _TOGETHER // max(step[:1].numel(), 1))):
        yield from LegSStep.of(order, some, alpha, dtype, power).unbind()


def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float = 0.0) -> Tensor:
    """`hippo.kernels.legs.sequence`, sample by sample."""
    outputs = []
    for f_k, advance in zip(f.unbind(1), legs_steps(c.shape[-1], step, alpha, c.dtype, power), strict=True):
        c = advance(c, f_k)
        if every:
            outputs.append(c)
    return torch.stack(outputs, dim=1) if every else c
