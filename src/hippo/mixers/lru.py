"""The Linear Recurrent Unit (Orvieto et al. 2023, arXiv 2303.06349)."""

import math

import torch
from torch import Tensor, nn

from hippo.mixers.multi_input import MultiInput


class LRU(MultiInput):
    """x_k = λ ⊙ x_{k−1} + e^γ ⊙ (B u_k), y_k = Re(C x_k) + D ⊙ u_k, with λ = exp(−e^ν + i e^θ) within the unit disc.

    e^γ begins at √(1 − |λ|²), which gives states of variance 1 to white input (equation 7).

    Args:
        features: H.
        state_size: Complex states P, shared by all features.
        radii: |λ| is drawn between these two, uniformly over the ring's area.
        phase: arg λ is drawn between 0 and this, uniformly.

    Raises:
        ValueError: If a size is below 1, or the radii are not 0 ≤ inner < outer ≤ 1.
    """

    dynamics = ("nu", "theta", "gamma", "B")
    rate_rule = (
        "A rate r makes λ into λ^r, with arg λ in (−π, π], and B into B (1 − λ^r)/(1 − λ): what held samples in "
        "between would do."
    )

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        radii: tuple[float, float] = (0.0, 1.0),
        phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(features, state_size)
        inner, outer = radii
        if not 0 <= inner < outer <= 1:
            raise ValueError(f"radii must be 0 ≤ inner < outer ≤ 1, not {inner} and {outer}")
        squared = torch.rand(state_size) * (outer**2 - inner**2) + inner**2
        decay = -0.5 * torch.log(squared.clamp(1e-12, 1 - 1e-6))  # −log |λ|, off its ends 0 and ∞
        self.nu = nn.Parameter(torch.log(decay))
        self.theta = nn.Parameter(torch.log(phase * torch.rand(state_size).clamp(min=1e-6)))
        self.gamma = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * decay)))
        self.B = nn.Parameter(torch.randn(state_size, features, 2) / math.sqrt(2 * features))
        self.C = nn.Parameter(torch.randn(features, state_size, 2) / math.sqrt(state_size))
        self.D = nn.Parameter(torch.randn(features))

    def factors(self, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        exponent = torch.complex(-torch.exp(self.nu), torch.exp(self.theta))
        if not isinstance(rate, Tensor) and rate == 1:
            return torch.exp(exponent), torch.exp(self.gamma).to(exponent)
        # Another power would have λ^½ near −1 where λ is near 1, and B with it without bound.
        phase = math.pi - torch.remainder(math.pi - exponent.imag, 2 * math.pi)
        exponent = torch.complex(exponent.real, phase)
        return torch.exp(rate * exponent), torch.exp(self.gamma) * torch.expm1(rate * exponent) / torch.expm1(exponent)

    def readout(self) -> Tensor:
        return torch.view_as_complex(self.C)
