"""Retention, RetNet's layer along time (Sun et al. 2023, arXiv 2307.08621)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hippo.kernels import matrix_state
from hippo.mixers.gated import Gated, State


class RetNet(Gated):
    """S_t = γ S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t for each head, with γ = 1 − 2^{−5−h}; out = W (SiLU(g) ⊙ RMSNorm(o)).

    q and k turn with time, by angles 1 … 10⁻⁴ a step, so what is recalled depends on how long ago it was. The
    normalisers of the authors' code are left out: RMSNorm, for each head, undoes them.

    Args:
        features: H.
        heads: Heads, each with H/heads channels of q and k.
        expand: Channels of v and g for each feature.
        chunk: Steps that one matrix product takes; does not change the result.
    """

    rate_rule = (
        "A rate r makes γ into γ^r and turns q and k r times as far; inputs are not scaled, the norm undoes that."
    )

    def __init__(self, features: int, heads: int = 4, expand: int = 2, chunk: int | None = None) -> None:
        super().__init__(features)
        for name, value in {"heads": heads, "expand": expand}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if features % (2 * heads):
            raise ValueError(f"features={features} must be a multiple of 2 heads, {2 * heads}: q and k turn in pairs")
        self.heads, self.chunk, channels = heads, chunk, expand * features
        self.width = channels
        # In float64 whatever the weights are: times are long and their phases are not.
        self.angles = torch.logspace(0, -4, features // heads // 2, dtype=torch.float64)
        self.log_decay = torch.log1p(-torch.exp2(-5 - torch.arange(heads, dtype=torch.float64)))
        self.query, self.key = (nn.Linear(features, features, bias=False) for _ in range(2))
        self.value, self.gate = (nn.Linear(features, channels, bias=False) for _ in range(2))
        self.leave = nn.Linear(channels, features, bias=False)
        for linear in (self.query, self.key, self.value, self.gate):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.leave.weight, gain=2**-1)

    def initial_state(self, batch: int, like: Tensor) -> State:
        H, heads = self.features, self.heads
        S = like.new_zeros(batch, heads, H // heads, len(self.value.weight) // heads)
        return S, torch.zeros(batch, dtype=torch.float64, device=like.device)

    def retention(self, x: Tensor, now: Tensor, rate: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v (B, L, heads, ·), log γ^r (B or 1, L, heads), and the time of every sample (B, L)."""
        size = self.features // self.heads
        elapsed = rate.double() if isinstance(rate, Tensor) else now.new_full(x.shape[:2], rate)
        time = now.unsqueeze(1) + elapsed.cumsum(1)
        turn = (time.unsqueeze(-1) * self.angles.to(x.device)).unsqueeze(2)
        cos, sin = turn.cos().to(x), turn.sin().to(x)

        def turned(v: Tensor) -> Tensor:
            even, odd = v.unflatten(-1, (self.heads, size // 2, 2)).unbind(-1)
            return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)

        q, k = turned(self.query(x)), turned(self.key(x) * size**-0.5)
        v = self.value(x).unflatten(-1, (self.heads, -1))
        steps = rate if isinstance(rate, Tensor) else x.new_full((1, x.shape[1]), rate)
        return q, k, v, steps.unsqueeze(-1) * self.log_decay.to(x), time

    def advance(self, x: Tensor, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        S, now = state
        q, k, v, log_decay, time = self.retention(x, now, rate)
        o, S = matrix_state.decayed(q, k, v, log_decay, S, self.chunk)
        o = F.rms_norm(o, (o.shape[-1],), eps=1e-6).flatten(-2)
        return self.leave(F.silu(self.gate(x)) * o), (S, time[:, -1])
