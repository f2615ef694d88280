"""S5, the simplified state-space layer (Smith, Warrington and Linderman 2023, arXiv 2208.04933)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hippo.mixers.multi_input import MultiInput
from hippo.mixers.spectra import spectrum
from hippo.mixers.steps import check_settings, discretize, log_uniform


class S5(MultiInput):
    """dx/dt = Λ x + B u, y = 2 Re(C x) + D ⊙ u, with one step size a state, discretised and scanned.

    Λ begins as the normal part of LegS, once in each of `blocks`.

    Args:
        features: H.
        state_size: Real states N, of which the N/2 complex ones that are kept stand for two each.
        blocks: Copies of a LegS of N/blocks states that Λ begins as.
        steps: Range of the step sizes, which are drawn log-uniformly.
        discretization: "zoh" or "bilinear".

    Raises:
        ValueError: If state_size is no even multiple of blocks, or a setting is unknown or beyond its range.
    """

    dynamics = ("log_decay", "frequency", "log_step", "B")
    rate_rule = "A rate r multiplies the step sizes, as `step_rescale` of the paper's code."

    def __init__(
        self,
        features: int,
        state_size: int = 64,
        blocks: int = 1,
        steps: tuple[float, float] = (1e-3, 1e-1),
        discretization: Literal["zoh", "bilinear"] = "zoh",
    ) -> None:
        if blocks < 1 or state_size % (2 * blocks):
            raise ValueError(f"state_size={state_size} must be an even multiple of blocks={blocks}")
        super().__init__(features, state_size // 2)
        check_settings(steps, discretization)
        self.discretization = discretization
        eigenvalues, V, _, _ = spectrum("legs", state_size // blocks)
        self.log_decay = nn.Parameter(torch.log(-eigenvalues.real).repeat(blocks).to(torch.get_default_dtype()))
        self.frequency = nn.Parameter(eigenvalues.imag.repeat(blocks).to(torch.get_default_dtype()))
        self.log_step = nn.Parameter(log_uniform(steps, self.state_size))
        B = torch.randn(blocks, state_size // blocks, features, dtype=torch.float64) / math.sqrt(features)
        C = torch.randn(features, blocks, state_size // blocks, dtype=torch.float64) / math.sqrt(state_size)
        B, C = V.mH @ B.to(V), C.to(V) @ V
        self.B = nn.Parameter(torch.view_as_real(B.flatten(0, 1)).to(torch.get_default_dtype()))
        self.C = nn.Parameter(torch.view_as_real(C.flatten(1)).to(torch.get_default_dtype()))
        self.D = nn.Parameter(torch.randn(features))

    def factors(self, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        return discretize(
            torch.complex(-torch.exp(self.log_decay), self.frequency),
            rate * torch.exp(self.log_step),
            self.discretization,
        )

    def readout(self) -> Tensor:
        return 2 * torch.view_as_complex(self.C)
