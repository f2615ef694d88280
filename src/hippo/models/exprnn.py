"""Orthogonal recurrence by the matrix exponential (Lezcano-Casado and Martínez-Rubio 2019, arXiv 1901.08428)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

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
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.threshold = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))

        u = torch.cos(torch.rand(hidden_size // 2) * math.pi / 2)
        s = torch.zeros(max(hidden_size - 1, 0))
        s[::2] = torch.sqrt((1 - u) / (1 + u))
        lower = torch.diag(s, -1) if hidden_size > 1 else torch.zeros(1, 1)
        first = Exponential(None)
        self.recurrent.weight.data = lower if base == "identity" else torch.zeros_like(lower)
        register_parametrization(self.recurrent, "weight", first if base == "identity" else Exponential(first(lower)))

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        W: Any = self.recurrent.weight  # one matrix exponential a sequence
        return cells.modrelu(self.input(x.transpose(0, 1)), W, self.threshold).transpose(0, 1)


class Exponential(nn.Module):
    """X (D, D) ↦ Q e^S, where S − below its diagonal X, above it −Xᵀ − is skew-symmetric, and Q is `base` or I."""

    def __init__(self, base: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("base", base)

    def forward(self, X: Tensor) -> Tensor:
        lower = X.tril(-1)
        W = torch.linalg.matrix_exp(lower - lower.mT)
        return W if self.base is None else self.base @ W
