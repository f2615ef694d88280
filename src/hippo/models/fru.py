"""The Fourier recurrent unit (Zhang, Lin, Song and Dhillon 2018, arXiv 1803.06585)."""

import math

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel, positive, positive_time


class FRU(SequenceModel):
    """Statistics of the hidden past, averaged under cosines of several frequencies.

        r_t = relu(W_r u_{t-1} + b_r)
        φ_t = relu(W_φ [x_t, r_t] + b_φ)
        u_t^k = u_{t-1}^k + cos(2π (f_k t / T + θ_k)) φ_t / T     for every frequency f_k and phase θ_k
        h_t = relu(W_h u_t + b_h)

    The gradient through u neither grows nor vanishes with time. Frequencies are 0 and, spaced logarithmically, 1/4 to
    T; phases are learnt, from 0. (So they are in the authors' code, which keeps, at frequency 0, the latest φ alone.)
    Timestamps are not used.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        length: T, the number of steps that the lowest frequencies resolve; sequences should not be much longer.
        frequencies: Number of frequencies.
        statistics: Size of φ.
        recurrent_size: Size of r.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        length: float = 200.0,
        frequencies: int = 60,
        statistics: int = 10,
        recurrent_size: int = 60,
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive(frequencies=frequencies, statistics=statistics, recurrent_size=recurrent_size)
        positive_time(length=length)
        self.length = length
        self.frequencies = frequencies
        self.phase = nn.Parameter(torch.zeros(frequencies))
        self.recall = nn.Linear(frequencies * statistics, recurrent_size)
        self.statistic = nn.Linear(input_size + recurrent_size, statistics)
        self.read = nn.Linear(frequencies * statistics, hidden_size)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the averages u (B, L, frequencies · statistics) after each step; `encode` reads them, at the end."""
        statistic_x, statistic_r = self.statistic.weight.split([self.input_size, self.recall.out_features], dim=1)
        from_x = nn.functional.linear(x.transpose(0, 1), statistic_x, self.statistic.bias)
        t = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device)
        ends, count = (math.log10(0.25), math.log10(self.length)), max(self.frequencies - 1, 1)
        single_at_least = torch.promote_types(x.dtype, torch.float32)
        spaced = torch.logspace(*ends, count, dtype=single_at_least, device=x.device).to(t)
        turns = t.unsqueeze(1) * torch.cat([spaced.new_zeros(1), spaced])[: self.frequencies] / self.length
        waves = torch.cos(2 * math.pi * ((turns % 1).to(x) + self.phase)) / self.length
        return cells.fru(from_x, waves, self.recall.weight, self.recall.bias, statistic_r).transpose(0, 1)

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        return torch.relu(self.read(super().encode(x, timestamps, mask, lengths)))
