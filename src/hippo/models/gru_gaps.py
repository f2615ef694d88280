"""Gated recurrent units that are told how much time has passed."""

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel, gaps, positive_time, with_mask
from hippo.models.rnn import GRULayer


class GRUDt(SequenceModel):
    """GRU-Δt: a GRU of what was observed, of a mask that says what, and of the gap to the observation before.

    As the RNN-Δt of arXiv 1907.03907.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        unit: Unit of time of the gaps, in that of the timestamps.
    """

    needs_timestamps = uses_timestamps = True
    takes_channel_mask = True

    def __init__(self, input_size: int, hidden_size: int = 512, unit: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        positive_time(unit=unit)
        self.unit = unit
        self.rnn = GRULayer(2 * input_size + 1, hidden_size)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        elapsed = gaps(timestamps, like=x).unsqueeze(-1) / self.unit
        return self.rnn(torch.cat([with_mask(x, mask), elapsed], dim=-1).transpose(0, 1))[0].transpose(0, 1)


class GRUD(SequenceModel):
    """GRU-D, the GRU that decays what it has not seen for a while (Che et al. 2018, arXiv 1606.01865).

    With δ the time since each channel was last observed and m whether it is now,

        γ_x = exp(−max(0, w δ + b)),  γ_h = exp(−max(0, W δ + b))
        x̂ = m x + (1 − m) (γ_x x_last + (1 − γ_x) x̄)
        h_t = GRU([x̂, m], γ_h h_{t-1})

    x̄, the training set's mean, is 0: channels should be standardized. The reset gate is `nn.GRU`'s.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        unit: Unit of time of δ, in that of the timestamps.
    """

    needs_timestamps = uses_timestamps = True
    takes_channel_mask = True

    def __init__(self, input_size: int, hidden_size: int = 512, unit: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        positive_time(unit=unit)
        self.unit = unit
        self.input_decay = nn.Parameter(torch.empty(2, input_size).uniform_(-1, 1) / input_size**0.5)
        self.hidden_decay = nn.Linear(input_size, hidden_size)
        self.cell = nn.GRUCell(2 * input_size, hidden_size)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        assert timestamps is not None
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        times = timestamps.to(torch.float64).unsqueeze(-1).expand_as(x)
        steps = torch.arange(x.shape[1], device=x.device)[:, None]
        # The step at which each channel was last observed, up to now and strictly before; −1 if never.
        latest = torch.where(mask, steps, -1).cummax(1).values
        before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], dim=1)
        since = (times - times.gather(1, before.clamp(min=0))).to(x) / self.unit
        last = torch.where(latest >= 0, x.gather(1, latest.clamp(min=0)), 0.0)

        weight, bias = self.input_decay
        x = torch.where(mask, x, last * torch.exp(-torch.relu(weight * since + bias)))
        decay = torch.exp(-torch.relu(self.hidden_decay(since))).transpose(0, 1)
        from_x = nn.functional.linear(with_mask(x, mask).transpose(0, 1), self.cell.weight_ih, self.cell.bias_ih)
        return cells.gru(from_x, self.cell.weight_hh, self.cell.bias_hh, decay).transpose(0, 1)
