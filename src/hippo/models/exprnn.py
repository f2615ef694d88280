"""Orthogonal recurrence by the matrix exponential (Lezcano-Casado and Martínez-Rubio 2019, arXiv 1901.08428)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from hippo.kernels import cells
from hippo.models.base import SequenceModel


class ExpRNN(SequenceModel):
    """h_t = modReLU(W_x x_t + Q e^S h_{t-1}) with a skew-symmetric S, and so an orthogonal matrix.

    modReLU(z) = sign(z) max(|z| + b, 0). Q is the matrix at the beginning, where S = 0: rotations of planes by angles
    drawn as in Helfrich et al. 2018 (the "Cayley" initialisation). S learns at a tenth of the rate.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    lr_factors: ClassVar[Mapping[str, float]] = {"recurrent": 0.1}

    def __init__(self, input_size: int, hidden_size: int = 512) -> None:
        super().__init__(input_size, hidden_size)
        self.input = nn.Linear(input_size, hidden_size, bias=False)
        nn.init.kaiming_normal_(self.input.weight, nonlinearity="relu")
        self.recurrent = orthogonal(nn.Linear(hidden_size, hidden_size, bias=False), orthogonal_map="matrix_exp")
        self.threshold = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))

        u = torch.cos(torch.rand(hidden_size // 2) * math.pi / 2)
        s = torch.zeros(max(hidden_size - 1, 0))
        s[::2] = -torch.sqrt((1 - u) / (1 + u))
        skew = torch.diag(s, 1) - torch.diag(s, -1) if hidden_size > 1 else torch.zeros(1, 1)
        self.recurrent.weight = torch.linalg.matrix_exp(skew)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        Q: Any = self.recurrent.weight  # one matrix exponential a sequence
        return cells.modrelu(self.input(x.transpose(0, 1)), Q, self.threshold).transpose(0, 1)
