"""A leaky integrator: each unit forgets at a learnt rate."""

import torch
from torch import Tensor, nn

from hippo.models import SequenceModel


class Leaky(SequenceModel):
    def __init__(self, input_size: int, hidden_size: int = 64) -> None:
        super().__init__(input_size, hidden_size)
        self.write = nn.Linear(input_size, hidden_size)
        self.keep = nn.Parameter(torch.linspace(0, 5, hidden_size))

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the state after each step, (B, L, D), from x (B, L, C)."""
        keep, written = torch.sigmoid(self.keep), torch.tanh(self.write(x))
        state, states = torch.zeros_like(written[:, 0]), []
        for new in written.unbind(1):
            state = keep * state + (1 - keep) * new
            states.append(state)
        return torch.stack(states, dim=1)
