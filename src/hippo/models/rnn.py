"""Plain and gated recurrent networks: the framework's kernels where these are fast. None of them uses timestamps."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel

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


class GRU(RNN):
    """One layer of `torch.nn.GRU`, gated by update and reset (arXiv 1406.1078).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    kernel = GRULayer


class LSTM(RNN):
    """One layer of `torch.nn.LSTM` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        forget_bias: Added to the forget gate's initial bias, which the framework draws around 0, so that a cell forgets
            half of what it holds at each step. Jozefowicz et al. 2015 advise 1.
    """

    kernel = nn.LSTM

    def __init__(self, input_size: int, hidden_size: int = 512, forget_bias: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            _, forget, _, _ = self.rnn.get_parameter("bias_ih_l0").chunk(4)  # input, forget, cell, output
            forget += forget_bias


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
