"""A convolution in scale: LegS memories without feedback, each with a learnt readout."""

from typing import Literal

import torch
from torch import Tensor, nn

from hippo.kernels import opaque, scaled
from hippo.mixers.base import Mixer
from hippo.values import may_look

State = tuple[Tensor, Tensor]

_ALPHA = {"bilinear": 0.5, "zoh": None}


class ScaleConvolution(Mixer):
    """y_h(t) = ∫₀¹ φ_h(s) x_h(st) ω(s) ds + D_h x_h(t), where φ_h is a learnt polynomial of degree N − 1.

    That is what can be read from a memory of all the past: φ_h = Σ_n C_hn p_n, with the orthonormal polynomials p_n of
    the weight ω(s) = (1 + a) s^a, of which a = 0 makes LegS (arXiv 2008.07669, theorem 2). No parameter is a length of
    time. So the layer is equivariant to dilation: an input that runs at another speed, x(λt), gives y(λt), but for what
    is lost between samples.

    Times are counted from the first sample, which fills the memory. Under "zoh" it stands, like every other, for the
    gap to its neighbour, so that samples that are repeated change nothing in the memory. (What is read from it changes
    in a gap: a layer above, or a mean over time, sees a little of that.) Under "bilinear" it stands for a moment, as
    in the paper, whose k-th sample after the first moves the memory by dt/t = 1/k. The state is the coefficients
    (B, channels, N), and the time since the first sample (B,), in float64: −1 before it.

    Args:
        features: H.
        order: Coefficients N of a memory.
        power: a > −1; above 0 the recent past counts more.
        discretization: "bilinear", or "zoh", which is exact for an input that is held between samples.
        channels: Memories, of linear maps of the features, where all outputs read them all; None for a memory of each
            feature, which its own output reads.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    takes_rate = takes_gaps = True
    rate_rule = "A rate multiplies all times, and changes nothing: the memory knows no more of times than their ratios."

    def __init__(
        self,
        features: int,
        order: int = 32,
        power: float = 0.0,
        discretization: Literal["bilinear", "zoh"] = "bilinear",
        channels: int | None = None,
    ) -> None:
        super().__init__(features)
        if order < 1 or (channels is not None and channels < 1):
            raise ValueError(f"order={order} and channels={channels} must be at least 1")
        if not -1 < power < float("inf"):
            raise ValueError(f"power must be above −1 and finite, not {power}")
        if discretization not in _ALPHA:
            raise ValueError(f"unknown discretization {discretization!r}; choose from {', '.join(_ALPHA)}")
        self.order, self.power, self.discretization = order, power, discretization
        self.write = None if channels is None else nn.Linear(features, channels, bias=False)
        shape = (features, order) if channels is None else (features, channels, order)
        self.C = nn.Parameter(torch.randn(shape) / (channels or 1) ** 0.5)
        self.D = nn.Parameter(torch.randn(features))

    def initial_state(self, batch: int, like: Tensor) -> State:
        channels = self.features if self.write is None else self.write.out_features
        time = torch.full((batch,), -1.0, dtype=torch.float64, device=like.device)
        return like.new_zeros(batch, channels, self.order), time

    def forward(self, x: Tensor, state: State | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, State]:
        u, c, step, time = self._written(x, state, rate)
        y, c = scaled.read(u, c, step, self.C, self.power, _ALPHA[self.discretization])
        return torch.addcmul(y, self.D, x), (c, time)

    def last(self, x: Tensor, rate: float | Tensor = 1.0) -> Tensor:
        c = scaled.remember(*self._written(x, None, rate)[:3], self.power, _ALPHA[self.discretization])
        return self._read(c, x[:, -1])

    @opaque  # numbers decide its way, each time others
    def step(self, x: Tensor, state: State | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, State]:
        self.check_rate(rate)
        since = None if state is None else _shared(state, x)
        if state is None or since is None or self.discretization == "zoh" or isinstance(rate, Tensor):
            y, state = self.forward(x.unsqueeze(1), state, rate.unsqueeze(1) if isinstance(rate, Tensor) else rate)
            return y.squeeze(1), state
        u = x if self.write is None else self.write(x)
        c = scaled.step(u, state[0], rate / (since + rate), self.power)
        return self._read(c, x), (c, torch.full_like(state[1], since + rate))

    def _read(self, c: Tensor, x: Tensor) -> Tensor:
        """Return the output (B, H) of coefficients (B, channels, N), for the sample x (B, H) that they end with."""
        y = (c * self.C).sum(-1) if self.write is None else nn.functional.linear(c.flatten(1), self.C.flatten(1))
        return torch.addcmul(y, self.D, x)

    def _written(self, x: Tensor, state: State | None, rate: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what is written to the memories (B, L, channels), their coefficients before, the relative steps, and
        the time after."""
        self.check_rate(rate)
        u = x if self.write is None else self.write(x)
        step, time = self._steps(x, None if state is None else state[1], rate)
        c = nn.functional.pad(u[:, 0].unsqueeze(-1), (0, self.order - 1))
        if state is not None:
            c = torch.where((state[1] < 0)[:, None, None], c, state[0])
        return u, c, step, time

    def _steps(self, x: Tensor, since: Tensor | None, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return relative steps dt/t, (L, B) or (L, 1), and the time of the last sample (B,); `since` is that of the
        latest one before x."""
        (batch, length, _), device = x.shape, x.device
        extra = 1.0 if self.discretization == "zoh" else 0.0  # gaps that the first sample stands for
        if isinstance(rate, Tensor):
            gaps = rate.detach().to(torch.float64)
        else:
            same = since is None or bool((since == since[0]).all())
            gaps = torch.full((1 if same else batch, length), float(rate), dtype=torch.float64, device=device)
        since = gaps.new_full((1,), -1.0) if since is None else since[: len(gaps)]
        gaps = torch.cat([torch.where(since < 0, 0.0, gaps[:, 0]).unsqueeze(1), gaps[:, 1:]], dim=1)
        elapsed = gaps.cumsum(1)
        first = gaps.gather(1, (gaps > 0).to(torch.uint8).argmax(1, keepdim=True))
        times = torch.where(since.unsqueeze(1) > 0, since.unsqueeze(1) + elapsed, elapsed + extra * first)
        times = times.where((since.unsqueeze(1) > 0) | (elapsed > 0), 0.0)
        step = torch.where(gaps > 0, gaps / times, 0.0)
        return step.mT, times[:, -1].expand(batch)


def _shared(state: State, x: Tensor) -> float | None:
    """Return the time that all sequences of a state share; None where there is none, it may not be looked at, or the
    state is not of the dtype of x."""
    if not may_look(state[1]) or state[0].dtype != x.dtype:
        return None
    times = state[1]
    first = times[0].item()
    return first if first >= 0 and (len(times) == 1 or bool((times == first).all())) else None
