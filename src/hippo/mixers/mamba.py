"""Mamba, a selective state space (Gu & Dao 2023, arXiv 2312.00752)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hippo.kernels.selective import selective_scan
from hippo.mixers.gated import Gated, ShortConvolution, State, each, step_bias


class Mamba(Gated):
    """u = SiLU(conv(x)); h_t = e^{Δ_t A} h_{t−1} + Δ_t u_t B_tᵀ, y_t = h_t C_t + D u_t; out = W (y ⊙ SiLU(z)).

    x and z are linear in the input, with E = expand · H channels; Δ = softplus(linear in u), B and C are linear in u.
    The input enters by Euler's rule, Δ B, as in the authors' code, not by zero-order hold.

    Args:
        features: H.
        state_size: States N of each channel.
        expand: Channels for each feature.
        window: Samples that the convolution sees.
        delta_rank: Rank of the map from u to Δ; H/16, rounded up, where None.
        steps: Time steps are drawn between these two, log-uniformly.
    """

    dynamics = ("A_log", "D", "to_step.bias")
    rate_rule = "A rate multiplies the time step Δ; the window of the short convolution stays as many samples long."

    def __init__(
        self,
        features: int,
        state_size: int = 16,
        expand: int = 2,
        window: int = 4,
        delta_rank: int | None = None,
        steps: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__(features)
        rank = math.ceil(features / 16) if delta_rank is None else delta_rank
        for name, value in {"state_size": state_size, "expand": expand, "delta_rank": rank}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        channels = expand * features
        self.state_size, self.delta_rank, self.channels = state_size, rank, channels
        self.width = 2 * channels
        self.enter = nn.Linear(features, 2 * channels, bias=False)
        self.convolution = ShortConvolution(channels, window)
        self.select = nn.Linear(channels, rank + 2 * state_size, bias=False)
        self.to_step = nn.Linear(rank, channels)
        nn.init.uniform_(self.to_step.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.to_step.bias.copy_(step_bias(channels, *steps))
        self.A_log = nn.Parameter(torch.arange(1, state_size + 1).to(self.to_step.weight).log().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        self.leave = nn.Linear(channels, features, bias=False)

    def place(self, index: int, depth: int) -> None:
        with torch.no_grad():
            self.leave.weight /= depth**0.5

    def initial_state(self, batch: int, like: Tensor) -> State:
        return self.convolution.initial_state(batch, like), like.new_zeros(batch, self.channels, self.state_size)

    def advance(self, x: Tensor, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        window, h = state
        u, z = self.enter(x).chunk(2, -1)
        u, window = self.convolution(u, window)
        u = F.silu(u)
        delta, B, C = self.select(u).split([self.delta_rank, self.state_size, self.state_size], -1)
        step = F.softplus(self.to_step(delta)) * each(rate, 1)
        y, h = selective_scan(u, step, -self.A_log.exp(), B, C, h)
        return self.leave(torch.addcmul(y, self.D, u) * F.silu(z)), (window, h)
