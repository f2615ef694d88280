"""Orthogonal recurrence by the matrix exponential (Lezcano-Casado and Martínez-Rubio 2019, arXiv 1901.08428)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel


class ExpRNN(SequenceModel):
    """h_t = modReLU(W_x x_t + e^S h_{t-1}) with a learnt skew-symmetric S, hence an orthogonal recurrent matrix.

    modReLU(z) = sign(z) max(|z| + b, 0). S begins as planes that e^S turns by tan(θ/2), θ uniform in [0, π/2]: the
    initialisation of Helfrich et al. 2018 (arXiv 1707.09520), which public code calls Cayley. S learns at a tenth of
    the rate.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        base: What the exponential is multiplied by. "identity", as published: the matrix is e^S. "initial": the matrix
            is Q e^S, where Q is that same first matrix and S begins at 0. Both start alike and learn differently,
            since the exponential's derivative at S is not the one at 0.

    Raises:
        ValueError: For another base.
    """

    lr_factors: ClassVar[Mapping[str, float]] = {"recurrent": 0.1}

    def __init__(
        self, input_size: int, hidden_size: int = 512, base: Literal["identity", "initial"] = "identity"
    ) -> None:
        super().__init__(input_size, hidden_size)
        if base not in ("identity", "initial"):
            raise ValueError(f"unknown base {base!r}; choose identity or initial")
        self.input = nn.Linear(input_size, hidden_size, bias=False)
        nn.init.kaiming_normal_(self.input.weight, nonlinearity="relu")
        torch.rand(hidden_size, hidden_size)  # drawn for nothing, so that a seed gives the weights of earlier records
        self.threshold = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))

        u = torch.cos(torch.rand(hidden_size // 2) * math.pi / 2)
        s = torch.zeros(max(hidden_size - 1, 0))
        s[::2] = torch.sqrt((1 - u) / (1 + u))
        lower = torch.diag(s, -1) if hidden_size > 1 else torch.zeros(1, 1)
        if base == "identity":
            self.recurrent = Exponential(lower)
        else:
            self.recurrent = Exponential(torch.zeros_like(lower), Exponential(lower)().detach())

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        W = self.recurrent()  # one matrix exponential a sequence
        return cells.modrelu(self.input(x.transpose(0, 1)), W, self.threshold).transpose(0, 1)


class Exponential(nn.Module):
    """The matrix Q e^S (D, D), where S − below its diagonal `lower`, above it −`lower`ᵀ − is skew-symmetric.

    Args:
        lower: (D, D), learnt; what lies on and above its diagonal does not matter.
        base: Q (D, D); the identity where None.
    """

    def __init__(self, lower: Tensor, base: Tensor | None = None) -> None:
        super().__init__()
        self.lower = nn.Parameter(lower)
        self.register_buffer("base", base)
        self.register_load_state_dict_pre_hook(_renamed)

    def forward(self) -> Tensor:
        lower = self.lower.tril(-1)
        W = torch.linalg.matrix_exp(lower - lower.mT)
        return W if self.base is None else self.base @ W


def _renamed(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take a state from when this was a parametrization of `torch.nn.utils`, which cannot be pickled."""
    earlier = f"{prefix}parametrizations.weight."
    for old, new in (("original", "lower"), ("0.base", "base")):
        if earlier + old in state:
            state[prefix + new] = state.pop(earlier + old)
