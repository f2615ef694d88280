"""S4D, diagonal state spaces (Gu, Gupta, Goel and Ré 2022, arXiv 2206.11893)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hippo.kernels import convolution
from hippo.mixers.base import TimeInvariant, uniform
from hippo.mixers.gaps import Rule, on_grid, through_gaps
from hippo.mixers.spectra import spectrum
from hippo.mixers.steps import check_settings, discretize, log_uniform

Initialization = Literal["lin", "inv", "legs", "real"]


class S4D(TimeInvariant):
    """For each feature, dx/dt = A x + u with a diagonal A, and y = 2 Re(C x) + D u; as a convolution where it can be.

    B is 1, since only its product with C counts. The state is C x (B, H, N/2), complex.

    Args:
        features: H.
        state_size: Real states N of a feature, of which the N/2 complex ones that are kept stand for two each.
        initialization: A to begin with, n = 0, …, N/2 − 1: "lin" −½ + iπn, "inv" −½ + i(N/π)(N/(2n+1) − 1), "legs" the
            eigenvalues of LegS's normal part, "real" −(n+1).
        steps: Range of the step sizes, which are drawn log-uniformly, one for each feature.
        discretization: "zoh" or "bilinear".

    Raises:
        ValueError: If state_size is odd, or a setting is unknown or beyond its range.
    """

    dynamics = ("log_decay", "frequency", "log_step")
    takes_rate = takes_gaps = True
    rate_rule = "A rate multiplies the step sizes, as `rate` of the paper's code."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        initialization: Initialization = "legs",
        steps: tuple[float, float] = (1e-3, 1e-1),
        discretization: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        super().__init__(features)
        check_settings(steps, discretization)
        self.state_size, self.discretization = state_size, discretization
        A = eigenvalues(initialization, state_size).expand(features, -1)
        dtype = torch.get_default_dtype()
        self.log_decay = nn.Parameter(torch.log(-A.real).to(dtype))
        self.frequency = nn.Parameter(A.imag.to(dtype, copy=True))
        self.log_step = nn.Parameter(log_uniform(steps, features))
        self.C = nn.Parameter(torch.randn(features, state_size // 2, 2) / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(features))

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        return with_skip(impulse_response(*self._discrete(torch.as_tensor(rate)), length), self.D)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        shape = (batch, self.features, self.state_size // 2)
        return torch.zeros(shape, dtype=like.dtype.to_complex(), device=like.device)

    def forward(
        self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        self.check_rate(rate)
        rate = uniform(rate)
        if isinstance(rate, Tensor):
            return self._by_gaps(x, state, rate)
        a, gain = self._discrete(torch.as_tensor(rate))
        y = convolution.convolve(x, with_skip(impulse_response(a, gain, x.shape[1]), self.D))
        if state is None:
            return y, None
        steps = torch.full((len(x),), x.shape[1], device=x.device)
        return y + fading(state, a, x.shape[1]), last_state(x, steps, a, gain, state)

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        if isinstance(rate, Tensor):
            a, gain = self._discrete(rate)
        else:
            a, gain = self.prepared(rate)
        before = self.initial_state(len(x), x) if state is None else state
        state = torch.addcmul(a * before, gain, x.unsqueeze(-1))
        return torch.addcmul(2 * state.real.sum(-1), self.D, x), state

    def prepared(self, rate: float | None) -> tuple[Tensor, ...]:
        return () if rate is None else self.constants(rate, lambda: self._discrete(torch.as_tensor(rate)))

    def _discrete(self, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a step of each rate (...) does: factors on the state and on the input, (..., H, N/2)."""
        A = torch.complex(-torch.exp(self.log_decay), self.frequency)
        step = rate[..., None, None].to(self.log_step) * torch.exp(self.log_step).unsqueeze(-1)
        a, gain = discretize(A, step, self.discretization)
        return a, torch.view_as_complex(self.C) * gain

    def _tables(self, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, gain = self._discrete(rate)
        return a, gain, a.new_zeros(*a.shape[:-1], 0, a.shape[-1])

    def _by_gaps(self, x: Tensor, state: Tensor | None, rate: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return outputs and the last state where each sample has a gap of its own.

        To a zero-order hold, a step over a gap is the same as many over its parts. Where all gaps are whole numbers of
        one step, those are a convolution.
        """
        before = self.initial_state(len(x), x) if state is None else state
        if self.discretization == "bilinear" or (grid := on_grid(rate)) is None:
            none, one = before.new_zeros(0, before.shape[2]), torch.ones_like(before[0])
            y, after = through_gaps(Rule(self._tables, none, one, less=False), x, before, rate)
            return y + self.D * x, after
        a, gain = self._discrete(torch.as_tensor(grid.step))
        held = x.gather(1, grid.held.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        y = convolution.convolve(held, impulse_response(a, gain, held.shape[1]))
        y = torch.cat(
            [2 * before.real.sum(-1).unsqueeze(1), y if state is None else y + fading(state, a, y.shape[1])], 1
        )
        y = y.gather(1, grid.ends.unsqueeze(-1).expand(-1, -1, x.shape[2])) + self.D * x
        return y, None if state is None else last_state(held, grid.ends[:, -1], a, gain, state)


def eigenvalues(initialization: Initialization, state_size: int) -> Tensor:
    """Return A (N/2,) to begin with, complex, in double precision. Raises ValueError for odd sizes and other names."""
    if state_size < 2 or state_size % 2:
        raise ValueError(f"state_size must be even and at least 2, not {state_size}: states are pairs of conjugates")
    n = torch.arange(state_size // 2, dtype=torch.float64)
    half = torch.full_like(n, -0.5)
    if initialization == "legs":
        return spectrum("legs", state_size).eigenvalues
    if initialization == "lin":
        return torch.complex(half, math.pi * n)
    if initialization == "inv":
        return torch.complex(half, state_size / math.pi * (state_size / (2 * n + 1) - 1))
    if initialization == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    raise ValueError(f"unknown initialization {initialization!r}; choose from lin, inv, legs and real")


def with_skip(response: Tensor, skip: Tensor) -> Tensor:
    """Return a kernel (H, L) with what goes from the input (H,) straight to the output."""
    return torch.cat([response[:, :1] + skip.unsqueeze(-1), response[:, 1:]], dim=1)


def impulse_response(a: Tensor, gain: Tensor, length: int) -> Tensor:
    """Return 2 Re Σ_n gain_n a_n^l for l < L, (H, L), from a and gain (H, M).

    As products of powers up to √L with powers of those: no (H, L, M) is made.
    """
    chunk = math.isqrt(length - 1) + 1
    fine = powers(a, chunk)
    coarse = gain.unsqueeze(-1) * powers(fine[..., -1] * a, -(-length // chunk))
    real = torch.cat([coarse.real, -coarse.imag], dim=1).mT @ torch.cat([fine.real, fine.imag], dim=1)
    return 2 * real.flatten(1)[:, :length]


def fading(state: Tensor, a: Tensor, length: int) -> Tensor:
    """Return 2 Re Σ_n a_n^{l+1} s_n for l < L, (B, L, H): what comes of states (B, H, M) by themselves."""
    ahead = a.unsqueeze(-1) * powers(a, length)
    weights = torch.cat([state.real, -state.imag], dim=-1)
    return 2 * (weights.transpose(0, 1) @ torch.cat([ahead.real, ahead.imag], dim=1)).permute(1, 2, 0)


def last_state(x: Tensor, steps: Tensor, a: Tensor, gain: Tensor, state: Tensor) -> Tensor:
    """Return the states (B, H, M) after so many steps (B,) of each sequence in x (B, L, H), from those before."""
    length = x.shape[1]
    reach = powers(a, length + 1)  # (H, M, L + 1)
    lags = torch.arange(length - 1, -1, -1, device=x.device)
    at = steps.unsqueeze(1) - 1 - lags  # the samples by their lags, (B, L)
    late = x.gather(1, at.clamp(min=0).unsqueeze(-1).expand_as(x)) * (at >= 0).unsqueeze(-1)
    by_lag = reach[..., lags] * gain.unsqueeze(-1)
    both = torch.cat([by_lag.real, by_lag.imag], dim=1) @ late.permute(2, 1, 0)
    driven = torch.complex(*both.permute(2, 0, 1).chunk(2, dim=-1))
    return driven + reach[..., steps].permute(2, 0, 1) * state


def powers(a: Tensor, count: int) -> Tensor:
    """Return a^0, a^1, …, a^(count−1) in a last axis, by doubling."""
    found, factor = torch.ones_like(a).unsqueeze(-1), a.unsqueeze(-1)
    while found.shape[-1] < count:
        found = torch.cat([found, found * factor], dim=-1)
        factor = factor * factor
    return found[..., :count]
