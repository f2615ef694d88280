"""The Linear Recurrent Unit (Orvieto et al. 2023, arXiv 2303.06349)."""

import math

import torch
from torch import Tensor, nn

from hippo.kernels import diagonal
from hippo.mixers.base import Mixer


class LRU(Mixer):
    """x_k = λ ⊙ x_{k−1} + e^γ ⊙ (B u_k), y_k = Re(C x_k) + D ⊙ u_k, with λ = exp(−e^ν + i e^θ) in the unit disc.

    Args:
        features: H.
        state_size: Complex states P, shared by all features.
        radii: |λ| is drawn between these two, uniformly over the ring's area.
        phase: arg λ is drawn between 0 and this, uniformly.
    """

    dynamics = ("nu", "theta", "gamma", "B")
    takes_rate = takes_gaps = True
    rate_rule = "A rate r makes λ into λ^r, and the input's factor (1 − λ^r)/(1 − λ) times what it was."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        radii: tuple[float, float] = (0.0, 1.0),
        phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(features)
        if state_size < 1:
            raise ValueError(f"state_size must be at least 1, not {state_size}")
        inner, outer = radii
        if not 0 <= inner < outer <= 1:
            raise ValueError(f"radii must be 0 ≤ inner < outer ≤ 1, not {inner} and {outer}")
        self.state_size = state_size
        squared = torch.rand(state_size) * (outer**2 - inner**2) + inner**2
        nu = -0.5 * torch.log(squared.clamp(min=1e-12))  # |λ| = e^{−nu}
        self.nu = nn.Parameter(torch.log(nu.clamp(min=1e-8)))
        self.theta = nn.Parameter(torch.log(phase * torch.rand(state_size).clamp(min=1e-6)))
        self.gamma = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * torch.exp(self.nu.detach()))))
        self.B = nn.Parameter(torch.randn(state_size, features, 2) / math.sqrt(2 * features))
        self.C = nn.Parameter(torch.randn(features, state_size, 2) / math.sqrt(state_size))
        self.D = nn.Parameter(torch.randn(features))

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return torch.zeros(batch, self.state_size, dtype=like.dtype.to_complex(), device=like.device)

    def forward(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        log_factor = torch.complex(-torch.exp(self.nu), torch.exp(self.theta))
        B = torch.view_as_complex(self.B) * torch.exp(self.gamma).unsqueeze(-1)
        u = torch.complex(x @ B.real.mT, x @ B.imag.mT)
        if isinstance(rate, Tensor) or rate != 1:
            stretched = (rate.unsqueeze(-1) if isinstance(rate, Tensor) else rate) * log_factor
            u = u * (torch.expm1(stretched) / torch.expm1(log_factor))
            log_factor = stretched
        states = diagonal.scan(torch.exp(log_factor), u, state)
        C = torch.view_as_complex(self.C)
        y = states.real @ C.real.mT - states.imag @ C.imag.mT + self.D * x
        return y, states[:, -1]

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        y, state = self(x.unsqueeze(1), state, rate.unsqueeze(1) if isinstance(rate, Tensor) else rate)
        return y.squeeze(1), state
