"""The gated network around a HiPPO memory (Figure 2 of arXiv 2008.07669)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.kernels.gated import gated
from hippo.measures import Measure
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel


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
    """

    uses_timestamps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        memory_order: int | None = None,
        measure: str | Measure = "legs",
        discretization: str | float = "bilinear",
    ) -> None:
        super().__init__(input_size, hidden_size)
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
        hidden = self._states(x, timestamps)
        return hidden if isinstance(hidden, Tensor) else torch.stack(tuple(hidden), dim=1)

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        hidden = self._states(x, timestamps)  # as a sequence they are not copied, and the others get no gradient
        return (hidden[:, -1] if isinstance(hidden, Tensor) else hidden[-1]).clone()

    def _states(self, x: Tensor, timestamps: Tensor | None) -> Sequence[Tensor] | Tensor:
        """Return the hidden states after each step, (B, L, D), or L of (B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.write.weight)
            read = torch.cat([self.gate.weight, self.candidate.weight])
            bias = torch.cat([self.gate.bias, self.candidate.bias])
            write_x, write_h = self.write.weight.split([self.input_size, self.hidden_size], dim=1)
            inputs = x.transpose(0, 1)
            written_x = nn.functional.linear(inputs, write_x, self.write.bias).squeeze(-1)
            step = self.memory.transition(x) if timestamps is None else None
            if step is not None and cells.serves(inputs, read, bias, written_x):
                read_x, read_c = read.split([self.input_size, self.memory.order], dim=1)
                from_x = nn.functional.linear(inputs, read_x, bias)
                return cells.lmu(from_x, written_x, None, read_c, *step, write_h[0], None).transpose(0, 1)
            operators = self.memory.operators(x.shape[1], timestamps, like=x)
            if operators is None:
                return self.step_by_step(x, timestamps)
            return gated(inputs, read, bias, written_x, write_h[0], operators)

    def step_by_step(
        self, x: Tensor, timestamps: Tensor | None, gate: Callable[[Tensor], Tensor] = torch.sigmoid
    ) -> list[Tensor]:
        """Return the hidden states (B, D) after each step as the equations have it: for samples that each have times of
        their own, for gates g of another kind, and as the reference for `hippo.kernels.gated`."""
        read = torch.cat([self.gate.weight, self.candidate.weight])
        read_x, read_c = read.split([self.input_size, self.memory.order], dim=1)
        write_x, write_h = self.write.weight.split([self.input_size, self.hidden_size], dim=1)
        # What depends on the input alone is one product for all steps.
        bias = torch.cat([self.gate.bias, self.candidate.bias])
        from_x = nn.functional.linear(x.transpose(0, 1), read_x, bias)
        written_x = nn.functional.linear(x.transpose(0, 1), write_x, self.write.bias).squeeze(-1)

        h = x.new_zeros(len(x), self.hidden_size)
        c = x.new_zeros(len(x), self.memory.order)
        hidden = []
        transitions = self.memory.transitions(x.shape[1], timestamps, since=None, like=c)
        for u_x, z_x, transition in zip(written_x, from_x, transitions, strict=True):
            c = transition(c, torch.addmv(u_x, h, write_h[0]))
            g, candidate = torch.addmm(z_x, c, read_c.mT).chunk(2, dim=-1)
            h = torch.lerp(h, torch.tanh(candidate), gate(g))
            hidden.append(h)
        return hidden
