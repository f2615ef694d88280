"""Mamba-2, a state space that is also masked attention (Dao & Gu 2024, arXiv 2405.21060)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hippo.kernels import matrix_state
from hippo.mixers.gated import Gated, ShortConvolution, State, each, step_bias


class Mamba2(Gated):
    """S_t = e^{Δ_t a} S_{t−1} + B_t (Δ_t u_t)ᵀ, y_t = S_tᵀ C_t + D u_t for each head; out = W RMSNorm(y ⊙ SiLU(z)).

    [u, B, C] is SiLU(conv(·)) of a linear map of the input, z and Δ = softplus(·) are others; a < 0 is one number a
    head, and B and C are shared by the heads of a group.

    Args:
        features: H.
        state_size: N.
        expand: Channels for each feature, E = expand · H.
        head_size: Channels P of a head, at most.
        groups: Groups of heads that share B and C.
        window: Samples that the convolution sees.
        steps: Time steps are drawn between these two, log-uniformly.
        chunk: Steps that one matrix product takes; does not change the result.
    """

    dynamics = ("A_log", "D", "delta_bias")
    rate_rule = "A rate multiplies the time step Δ; the window of the short convolution stays as many samples long."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        expand: int = 2,
        head_size: int = 64,
        groups: int = 1,
        window: int = 4,
        steps: tuple[float, float] = (1e-3, 1e-1),
        chunk: int | None = None,
    ) -> None:
        super().__init__(features)
        channels = expand * features
        for name, value in {
            "state_size": state_size,
            "expand": expand,
            "head_size": head_size,
            "groups": groups,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        head_size = min(head_size, channels)
        heads = channels // head_size
        if channels % head_size or heads % groups:
            raise ValueError(
                f"{channels} channels must be whole heads of head_size={head_size}, and those whole groups={groups}"
            )
        self.width = 2 * channels + 2 * groups * state_size + heads
        self.sizes = [channels, channels + 2 * groups * state_size, heads]
        self.state_size, self.groups, self.head_size, self.chunk = state_size, groups, head_size, chunk
        self.enter = nn.Linear(features, sum(self.sizes), bias=False)
        self.convolution = ShortConvolution(self.sizes[1], window)
        self.delta_bias = nn.Parameter(step_bias(heads, *steps))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.leave = nn.Linear(channels, features, bias=False)

    def place(self, index: int, depth: int) -> None:
        with torch.no_grad():
            self.leave.weight /= depth**0.5

    def initial_state(self, batch: int, like: Tensor) -> State:
        S = like.new_zeros(batch, self.sizes[2], self.state_size, self.head_size)
        return self.convolution.initial_state(batch, like), S

    def advance(self, x: Tensor, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        window, S = state
        z, u, delta = self.enter(x).split(self.sizes, -1)
        u, window = self.convolution(u, window)
        shared = self.groups * self.state_size
        u, B, C = F.silu(u).split([self.sizes[0], shared, shared], -1)
        u = u.unflatten(-1, (-1, self.head_size))
        B, C = (v.unflatten(-1, (self.groups, -1)) for v in (B, C))
        delta = F.softplus(delta + self.delta_bias) * each(rate, 1)
        y, S = matrix_state.decayed(C, B, delta.unsqueeze(-1) * u, -self.A_log.exp() * delta, S, self.chunk)
        y = torch.addcmul(y, self.D.unsqueeze(-1), u).flatten(-2)
        return self.leave(self.norm(y * F.silu(z))), (window, S)
