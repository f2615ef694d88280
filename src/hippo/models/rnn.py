"""Plain and gated recurrent networks: the framework's kernels where these are fast. None of them uses timestamps."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.kernels.cells.gru import GRU_CELL
from hippo.kernels.cells.mgu import MGU_CELL
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

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Sequence[Tensor] | Tensor:
        return self.rnn(x.transpose(0, 1))[0]

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        if lengths is not None or torch.is_grad_enabled() or x.shape[1] <= _CHUNK:
            return super().encode(x, timestamps, mask, lengths)
        hidden, state = x, None  # the last one is all that is wanted: of millions of steps, not all need be held
        for chunk in x.transpose(0, 1).split(_CHUNK):
            hidden, state = self.rnn(chunk, state)
        return hidden[-1].clone()


class GRU(RNN):
    """One layer of `torch.nn.GRU`, gated by update and reset (arXiv 1406.1078).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    kernel = nn.GRU

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Sequence[Tensor] | Tensor:
        return gru(x.transpose(0, 1), self.rnn)


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

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Sequence[Tensor]:
        (forget_x, forget_h), (candidate_x, candidate_h) = (
            layer.weight.split([self.input_size, self.hidden_size], dim=1) for layer in (self.forget, self.candidate)
        )
        bias = torch.cat([self.forget.bias, self.candidate.bias])
        from_x = nn.functional.linear(x.transpose(0, 1), torch.cat([forget_x, candidate_x]), bias)
        return cells.unroll(MGU_CELL, mgu_steps, from_x, forget_h, candidate_h)


def mgu_steps(from_x: Tensor, forget_h: Tensor, candidate_h: Tensor) -> list[Tensor]:
    """Return an MGU's states (B, D), from what x gives to its gate and candidate (L, B, 2D), and two weights (D, D)."""
    h = from_x.new_zeros(from_x.shape[1], len(forget_h))
    hidden = []
    for forget, candidate in (z.chunk(2, dim=-1) for z in from_x):
        f = torch.sigmoid(torch.addmm(forget, h, forget_h.mT))
        h = torch.lerp(h, torch.tanh(torch.addmm(candidate, f * h, candidate_h.mT)), f)
        hidden.append(h)
    return hidden


def gru(x: Tensor, rnn: nn.GRU) -> Sequence[Tensor] | Tensor:
    """Return the states of a GRU, L of (B, D), from x (L, B, C): by a loop of ours where there is a compiled one."""
    weights = [rnn._parameters.get(name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    as_made = type(rnn) is nn.GRU and None not in weights and not rnn._forward_hooks and not rnn._forward_pre_hooks
    if not as_made or torch.is_autocast_enabled(x.device.type) or not cells.serves(x, *weights):
        return rnn(x)[0]  # which also knows what to do with pruned, quantized, ... weights
    weight_x, weight_h, bias_x, bias_h = weights
    from_x = nn.functional.linear(x, weight_x, bias_x)  # type: ignore[arg-type]
    return cells.unroll(GRU_CELL, gru_steps, from_x, weight_h, bias_h, None)


def gru_steps(from_x: Tensor, weight: Tensor, bias: Tensor, decay: Tensor | None) -> list[Tensor]:
    """Return a GRU's states (B, D), from W_x x + b_x (L, B, 3D), W_h (3D, D), b_h, and, for GRU-D, what h is multiplied
    by before each step (L, B, D), or None."""
    h = from_x.new_zeros(from_x.shape[1], weight.shape[1])
    hidden = []
    for t, z_x in enumerate(from_x):
        h = gru_step(z_x, h if decay is None else decay[t] * h, weight, bias)
        hidden.append(h)
    return hidden


def gru_step(from_x: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a GRU's next hidden state (B, D) from W_x x_t + b_x, (B, 3D), and the present one, as `nn.GRU` does it."""
    from_h = nn.functional.linear(h, weight, bias)
    gates, candidate = from_x.split([2 * h.shape[-1], h.shape[-1]], dim=-1)
    gates_h, candidate_h = from_h.split([2 * h.shape[-1], h.shape[-1]], dim=-1)
    reset, update = torch.sigmoid(gates + gates_h).chunk(2, dim=-1)
    return torch.lerp(torch.tanh(torch.addcmul(candidate, reset, candidate_h)), h, update)
