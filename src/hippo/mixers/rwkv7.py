"""RWKV-7's layer along time (Peng et al. 2025, arXiv 2503.14456)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hippo.kernels import matrix_state
from hippo.mixers.gated import Gated, State, each, shifted

_MIXED = ("r", "w", "k", "v", "a", "g")  # what is made of each sample and the one before it
_SHIFT = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}  # exponents of the initial shares


class _Rule(NamedTuple):
    """What the recurrence takes, each (B, L, heads, N), in the order of `matrix_state.delta_rule`."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    read: Tensor
    write: Tensor


class RWKV7(Gated):
    """S_t = diag(w_t) S_{t−1} − (κ̂ ∘ a)_t (S_{t−1}ᵀ κ̂_t)ᵀ + k_t v_tᵀ, o_t = S_tᵀ r_t for each head.

    r, w, k, v, a and the output's gate g are made of each sample mixed with the one before it; w, a and g through maps
    of low rank. out = W (g ⊙ (GroupNorm(o) + (r · (r_k ∘ k)) v)). The reuse of the first layer's values in later ones
    is left out, as layers do not see each other here, and so is the channel mix, which `Stack` has its own of.

    Args:
        features: H.
        head_size: Channels N of a head, at most.
        rank: Rank of the maps to w, a and g.
        chunk: Steps that one matrix product takes, a power of 2; does not change the result.
    """

    map_of_row: Tensor
    dynamics = ("w0", "a0", "k_k", "k_a", "r_k", "shares")
    rate_rule = (
        "A rate r makes the decay w into w^r; the mix with the sample before, and what is written, stay as they are."
    )

    def __init__(self, features: int, head_size: int = 64, rank: int = 32, chunk: int | None = None) -> None:
        super().__init__(features)
        for name, value in {"head_size": head_size, "rank": rank}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        head_size = min(head_size, features)
        if features % head_size:
            raise ValueError(f"features={features} must be whole heads of head_size={head_size}")
        self.heads, self.head_size, self.chunk = features // head_size, head_size, chunk
        self.width = 4 * features  # of states between chunks, whose size is that of so many channels
        self.shares = nn.Parameter(torch.empty(len(_MIXED), features))
        rows = torch.tensor([features, rank, features, features, rank, rank])
        self.register_buffer("map_of_row", torch.arange(len(_MIXED)).repeat_interleave(rows), persistent=False)
        self.w0, self.a0 = (nn.Parameter(torch.empty(features)) for _ in range(2))
        self.w1, self.a1, self.g1 = (nn.Parameter(torch.zeros(features, rank)) for _ in range(3))
        self.w2, self.a2, self.g2 = (nn.Parameter(torch.empty(rank, features)) for _ in range(3))
        for second in (self.w2, self.a2, self.g2):
            nn.init.orthogonal_(second, gain=0.1 * max(1.0, (rank / features) ** 0.5))
        position = torch.linspace(-0.5, 0.5, features)
        self.k_k = nn.Parameter(0.71 - 0.1 * position)
        self.k_a = nn.Parameter(torch.full((features,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, head_size), -0.04))
        self.receptance, self.key, self.value, self.leave = (
            nn.Linear(features, features, bias=False) for _ in range(4)
        )
        for linear, bound in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5)):
            nn.init.uniform_(linear.weight, -bound * features**-0.5, bound * features**-0.5)
        nn.init.zeros_(self.leave.weight)
        self.norm = nn.GroupNorm(self.heads, features, eps=64e-5)
        self.place(0, 1)

    def place(self, index: int, depth: int) -> None:
        """Set what the authors' initialisation makes depend on depth: decays spread more evenly in later layers."""
        H, N, late = self.features, self.head_size, index / max(depth - 1, 1)
        rising, position = torch.arange(H) / H, torch.linspace(0, 1, H)
        zigzag = torch.linspace(-1, 1, N).repeat(self.heads)
        zigzag = zigzag * zigzag.abs()
        with torch.no_grad():
            for share, name in zip(self.shares, _MIXED, strict=True):
                share.copy_(1 - rising ** (_SHIFT[name] * (1 - index / depth)))
            self.w0.copy_(-5.5 + 6 * position ** (1 + late**0.3) + 2.5 * zigzag)
            self.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * (position - 0.5))

    def initial_state(self, batch: int, like: Tensor) -> State:
        S = like.new_zeros(batch, self.heads, self.head_size, self.head_size)
        return like.new_zeros(batch, self.features), S

    def rule(self, x: Tensor, before: Tensor, rate: float | Tensor) -> tuple[_Rule, Tensor]:
        """Return what the recurrence takes, and the gate g (B, L, H)."""
        weights = (self.receptance.weight, self.w1.mT, self.key.weight, self.value.weight, self.a1.mT, self.g1.mT)
        earlier = shifted(x, before)
        if x.shape[1] == 1:
            inputs = torch.addcmul(x, earlier - x, self.shares).unsqueeze(1).unbind(2)
            r, w, k, v, a, g = (F.linear(mixed, W) for mixed, W in zip(inputs, weights, strict=True))
        else:  # W (x + μ ∘ (x' − x)) of all six maps is one product with [x, x'], and no mixed input is kept
            whole = torch.cat(weights)
            part = whole * self.shares.index_select(0, self.map_of_row)
            mixed = F.linear(torch.cat([x, earlier], -1), torch.cat([whole - part, part], 1))
            r, w, k, v, a, g = mixed.split([len(W) for W in weights], -1)
        log_decay = -math.exp(-0.5) * torch.sigmoid(self.w0 + torch.tanh(w) @ self.w2)
        a = torch.sigmoid(self.a0 + a @ self.a2)
        gate = torch.sigmoid(g) @ self.g2

        def by_head(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, self.head_size))

        read = F.normalize(by_head(k * self.k_k), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        r, k, v, log_decay, a = map(by_head, (r, k, v, log_decay * each(rate, 1), a))
        rule = _Rule(r, k, v, log_decay, read, -read * a)
        return rule, gate

    def advance(self, x: Tensor, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        before, S = state
        rule, gate = self.rule(x, before, rate)
        o, S = matrix_state.delta_rule(*rule, S, self.chunk)
        o = self.norm(o.reshape(-1, self.features)).view_as(x)
        present = (rule.q * rule.k * self.r_k).sum(-1, keepdim=True) * rule.v
        return self.leave((o + present.flatten(-2)) * gate), (x[:, -1], S)
