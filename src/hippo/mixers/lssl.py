"""LSSL-f, linear state-space layers of fixed dynamics (Gu et al. 2021, arXiv 2110.13985)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hippo.constants import constant
from hippo.discretize import bilinear
from hippo.kernels import convolution
from hippo.measures import Measure, by_name
from hippo.mixers.base import TimeInvariant
from hippo.mixers.s4 import carried, rows
from hippo.mixers.s4d import with_skip
from hippo.mixers.steps import check_settings


class _System(NamedTuple):
    """What a layer's Ā and B̄ depend on, but for its rate."""

    measure: Measure
    order: int
    features: int
    steps: tuple[float, float]


class LSSL(TimeInvariant):
    """For each feature, dx/dt = A x + B u and y = C x + D u by the bilinear rule, with a measure's A and B for good.

    What is learnt is C and D. The kernel is C times the responses Ā^l B̄, which are made once. The state is x (B, H, N).

    Args:
        features: H.
        state_size: N.
        measure: "legs", with a window of 1, or an object of `hippo.measures`.
        steps: Range of the step sizes, which are spaced evenly in their logarithms, one for each feature.

    Raises:
        ValueError: If a size is below 1, the measure is unknown, or `steps` is no range above 0.
    """

    takes_rate = True
    rate_rule = "A rate multiplies the step sizes. Gaps that differ would take a dense system of order N for each."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        measure: str | Measure = "legs",
        steps: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__(features)
        check_settings(steps, "bilinear")
        if state_size < 1:
            raise ValueError(f"state_size must be at least 1, not {state_size}")
        measure = by_name(measure) if isinstance(measure, str) else measure
        self.system = _System(measure, state_size, features, (steps[0], steps[1]))
        self.C = nn.Parameter(torch.randn(features, state_size))
        self.D = nn.Parameter(torch.randn(features))

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        self.check_rate(rate)
        responses = _responses(self.system, rate, length, self.C.dtype, self.C.device)
        return with_skip((responses @ self.C.unsqueeze(-1)).squeeze(-1), self.D)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, *self.C.shape)

    def forward(
        self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        self.check_rate(rate)
        assert not isinstance(rate, Tensor)
        y = convolution.convolve(x, self.kernel(x.shape[1], rate))
        if state is None:
            return y, None
        of_state, state = carried(*_transition(self.system, rate, x.dtype, x.device), self.C, x, state)
        return y + of_state, state

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        assert not isinstance(rate, Tensor)
        A, B = self.prepared(rate)
        state = self.initial_state(len(x), x) if state is None else state
        state = torch.addcmul((state.transpose(0, 1) @ A.mT).transpose(0, 1), B, x.unsqueeze(-1))
        return torch.addcmul((self.C * state).sum(-1), self.D, x), state

    def prepared(self, rate: float | None) -> tuple[Tensor, Tensor]:
        assert rate is not None
        return self.constants(rate, lambda: _transition(self.system, rate, self.C.dtype, self.C.device))


@constant(maxsize=4)
def _transition(system: _System, rate: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Ā (H, N, N) and B̄ (H, N), made in double precision."""
    low, high = (math.log(end) for end in system.steps)
    steps = rate * torch.linspace(low, high, system.features, dtype=torch.float64).exp()
    A, B = bilinear(*system.measure.dynamics(system.order), steps)
    return A.to(device, dtype).contiguous(), B.to(device, dtype).contiguous()  # part of one tensor: ten times as slow


@constant(maxsize=4)
def _responses(system: _System, rate: float, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return Ā^l B̄ for l < L, (H, L, N), made in double precision."""
    A, B = _transition(system, rate, torch.float64, torch.device("cpu"))
    return rows(B, A.mT, length).to(device, dtype)
