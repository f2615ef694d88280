"""Plain and gated recurrent networks: the framework's kernels where these are fast."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel, positive_time, units

_CHUNK = 4096  # steps


class RNN(SequenceModel):
    """One layer of `torch.nn.RNN` with tanh (Elman 1990) and the framework's default initialisation.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    kernel: Callable[[int, int], Any] = nn.RNN

    def __init__(self, input_size: int, hidden_size: int = 512) -> None:
        super().__init__(input_size, hidden_size)
        self.rnn = self.kernel(input_size, hidden_size)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.rnn(x.transpose(0, 1))[0].transpose(0, 1)

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() or x.shape[1] <= _CHUNK:
            return super().last(x, timestamps, mask)
        hidden, state = x, None  # of millions of steps, not all need be held
        for chunk in x.transpose(0, 1).split(_CHUNK):
            hidden, state = self.rnn(chunk, state)
        return hidden[-1].clone()


class GRULayer(nn.GRU):
    """One layer of `torch.nn.GRU`, computed by a compiled loop where there is one."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the states (L, B, D) and the last (1, B, D), from x (L, B, C) and the state before, (1, B, D) or 0."""
        weights: Any = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        if h is not None or torch.is_autocast_enabled(x.device.type) or not cells.serves(x, *weights):
            return super().forward(x, h)
        weight_x, weight_h, bias_x, bias_h = weights
        hidden = cells.gru(nn.functional.linear(x, weight_x, bias_x), weight_h, bias_h)
        return hidden, hidden[-1:]


class _Gated(RNN):
    """A network whose gates may act in time."""

    def __init__(self, input_size: int, hidden_size: int, gate_unit: float | None) -> None:
        super().__init__(input_size, hidden_size)
        if gate_unit is not None:
            positive_time(gate_unit=gate_unit)
        self.gate_unit, self.uses_timestamps = gate_unit, gate_unit is not None

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        gaps = units(timestamps, self.gate_unit, x)
        if gaps is None:
            return super().unroll(x, timestamps, mask)
        weight_x, weight_h, bias_x, bias_h = self.rnn.parameters()
        return self._in_time(
            nn.functional.linear(x.transpose(0, 1), weight_x, bias_x), weight_h, bias_h, gaps
        ).transpose(0, 1)

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        if timestamps is None or self.gate_unit is None:
            return super().last(x, timestamps, mask)
        return self._checked(x, timestamps, mask)[:, -1].clone()

    def _in_time(self, from_x: Tensor, weight: Tensor, bias: Tensor, gaps: Tensor) -> Tensor:
        """Return the hidden states (L, B, D) from what the input brings to each step, and gaps (L, B, 1)."""
        raise NotImplementedError


class GRU(_Gated):
    """One layer of `torch.nn.GRU`, gated by update and reset (arXiv 1406.1078).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        gate_unit: Time that counts as one step, in the unit of the timestamps. With it the update acts in time: after a
            gap of Δ units it has replaced 1 − (1 − g)^Δ of the hidden state (arXiv 1804.11188). By the sample where
            None, or where there are no timestamps.
    """

    kernel = GRULayer

    def __init__(self, input_size: int, hidden_size: int = 512, gate_unit: float | None = None) -> None:
        super().__init__(input_size, hidden_size, gate_unit)

    def _in_time(self, from_x: Tensor, weight: Tensor, bias: Tensor, gaps: Tensor) -> Tensor:
        return cells.gru(from_x, weight, bias, gaps=gaps)


class LSTM(_Gated):
    """One layer of `torch.nn.LSTM` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        forget_bias: Added to the forget gate's initial bias, which the framework draws around 0, so that a cell forgets
            half of what it holds at each step. Jozefowicz et al. 2015 advise 1.
        gate_unit: Time that counts as one step, in the unit of the timestamps. With it the cell acts in time: a gap of
            Δ units, were Δ whole, does what Δ steps with the same gates and candidate would. By the sample where None,
            or where there are no timestamps.
    """

    kernel = nn.LSTM

    def __init__(
        self, input_size: int, hidden_size: int = 512, forget_bias: float = 0.0, gate_unit: float | None = None
    ) -> None:
        super().__init__(input_size, hidden_size, gate_unit)
        with torch.no_grad():
            _, forget, _, _ = self.rnn.get_parameter("bias_ih_l0").chunk(4)  # input, forget, cell, output
            forget += forget_bias

    def _in_time(self, from_x: Tensor, weight: Tensor, bias: Tensor, gaps: Tensor) -> Tensor:
        return cells.lstm(from_x + bias, weight, gaps)


class MGU(SequenceModel):
    """The minimal gated unit: one gate that forgets and resets (arXiv 1603.09420).

        f_t = σ(W_f [x_t, h_{t-1}] + b_f)
        h_t = (1 − f_t) h_{t-1} + f_t tanh(W_h [x_t, f_t h_{t-1}] + b_h)

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    def __init__(self, input_size: int, hidden_size: int = 512) -> None:
        super().__init__(input_size, hidden_size)
        self.forget = nn.Linear(input_size + hidden_size, hidden_size)
        self.candidate = nn.Linear(input_size + hidden_size, hidden_size)
        for parameter in self.parameters():  # as the framework's recurrent layers
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        (forget_x, forget_h), (candidate_x, candidate_h) = (
            layer.weight.split([self.input_size, self.hidden_size], dim=1) for layer in (self.forget, self.candidate)
        )
        bias = torch.cat([self.forget.bias, self.candidate.bias])
        from_x = nn.functional.linear(x.transpose(0, 1), torch.cat([forget_x, candidate_x]), bias)
        return cells.mgu(from_x, forget_h, candidate_h).transpose(0, 1)
