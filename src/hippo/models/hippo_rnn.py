"""The gated network around a HiPPO memory (Figure 2 of arXiv 2008.07669)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hippo.kernels import gated as kernels
from hippo.measures import Measure
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel, positive_time, units


class HiPPORNN(SequenceModel):
    """A gated recurrent network that writes one number a step to a HiPPO memory, and reads the whole memory.

        u_t = W_u [x_t, h_{t-1}] + b_u                    what to remember, a scalar
        c_t = memory(c_{t-1}, u_t)                        N coefficients of the history of u
        g_t = σ(W_g [x_t, c_t] + b_g)
        h_t = (1 − g_t) h_{t-1} + g_t tanh(W_h [x_t, c_t] + b_h)

    There is no hidden-to-hidden weight: the past reaches h through the memory and the gate. The recurrence keeps the
    weights' precision, under autocast too: what it accumulates over hundreds of steps is not for half precision.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        memory_order: Coefficients N; the hidden size where None.
        measure: What the memory remembers: "legs" or a `Measure`.
        discretization: See `hippo.HiPPO`.
        gate_unit: Time that counts as one step of the gate, in the unit of the timestamps. With it the gate acts in
            time: after a gap of Δ units it has replaced 1 − (1 − g)^Δ of the hidden state, as a memory of order 1 does
            (arXiv 1804.11188). By the sample where None, or where there are no timestamps.
    """

    uses_timestamps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        memory_order: int | None = None,
        measure: str | Measure = "legs",
        discretization: str | float = "bilinear",
        gate_unit: float | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if gate_unit is not None:
            positive_time(gate_unit=gate_unit)
        self.gate_unit = gate_unit
        self.memory = HiPPO(measure, hidden_size if memory_order is None else memory_order, discretization)
        self.write = nn.Linear(input_size + hidden_size, 1)
        self.gate = nn.Linear(input_size + self.memory.order, hidden_size)
        self.candidate = nn.Linear(input_size + self.memory.order, hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as the paper's code does; biases keep the framework's default."""
        nn.init.kaiming_uniform_(self.write.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(self.gate.weight, nonlinearity="linear")
        for block in self.candidate.weight.split([self.input_size, self.memory.order], dim=1):
            nn.init.xavier_normal_(block)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        hidden = self.states(x, timestamps)
        return hidden.transpose(0, 1) if isinstance(hidden, Tensor) else torch.stack(tuple(hidden), dim=1)

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.states(x, timestamps)[-1].clone()  # the others are neither copied, nor do they get a gradient

    def states(self, x: Tensor, timestamps: Tensor | None) -> Sequence[Tensor] | Tensor:
        """Return the hidden states (B, D) after each step, by what serves best: see `hippo.kernels.gated`."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.write.weight)
            steps = self.memory.kernel_steps(x.shape[1], timestamps, like=x)
            gaps = units(timestamps, self.gate_unit, x)
            return kernels.gated(*self._inputs(x), steps, self._transitions(x, timestamps), owner=self, gaps=gaps)

    @property
    def route(self) -> str | None:
        """What has served the latest forward pass: see `hippo.kernels.gated.route`."""
        return kernels.route(self)

    def step_by_step(self, x: Tensor, timestamps: Tensor | None, gaps: Tensor | None = None) -> list[Tensor]:
        """Return the hidden states (B, D) after each step as the equations have it: for gradients of any order, for
        gaps (L, B, 1) that the gate is told of, and as the reference for `states`."""
        inputs, read, bias, written_x, write = self._inputs(x)
        read_x, read_c = read.tensor_split([self.input_size], dim=1)
        from_x = nn.functional.linear(inputs, read_x, bias)
        return kernels.step_by_step(from_x, written_x, read_c, write, self._transitions(x, timestamps), gaps)

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return x (L, B, C), read (2D, C + N), bias (2D,), written_x (L, B) and write (D,) for `kernels.gated`."""
        read = torch.cat([self.gate.weight, self.candidate.weight])
        bias = torch.cat([self.gate.bias, self.candidate.bias])
        write_x, write_h = self.write.weight.tensor_split([self.input_size], dim=1)
        inputs = x.transpose(0, 1)
        return inputs, read, bias, nn.functional.linear(inputs, write_x, self.write.bias).squeeze(-1), write_h[0]

    def _transitions(self, x: Tensor, timestamps: Tensor | None) -> Iterator[kernels.Step]:
        return self.memory.transitions(x.shape[1], timestamps, since=None, like=x[..., 0])
