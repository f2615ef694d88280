"""A memory by itself: nothing is learnt, and what it holds is read back as mathematics has it."""

import torch
from torch import Tensor, nn

from hippo.measures import Measure
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel, positive


class Memory(SequenceModel):
    """The coefficients of every channel, D = C·N, and as the read-out of one channel the signal that they stand for.

    Args:
        input_size: Channels C.
        hidden_size: Coefficients N of a channel.
        measure: What the memory remembers: "legs" or a `Measure`.
        discretization: See `hippo.HiPPO`.
    """

    uses_timestamps = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        measure: str | Measure = "legs",
        discretization: str | float = "bilinear",
    ) -> None:
        positive(input_size=input_size, hidden_size=hidden_size)
        super().__init__(input_size, input_size * hidden_size)
        self.memory = HiPPO(measure, hidden_size, discretization)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.memory(x, timestamps)[0].flatten(2)

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.memory.remember(x, timestamps).coefficients.flatten(1)

    def read_out(self, outputs: int) -> nn.Module:
        """Return what reads the signal back at equidistant times, from the beginning of the window to its end."""
        if self.input_size != 1:
            raise ValueError(f"a memory is read back as a signal of one channel, not {self.input_size}")
        oldest, newest = self.memory.measure.window(1.0)
        if oldest == -torch.inf:
            raise ValueError(f"{self.memory.measure} remembers the past without end: there is no window to read back")
        times = torch.linspace(oldest, newest, outputs, dtype=torch.float64)
        basis = self.memory.measure.basis(self.hidden_size, times, 1.0)
        reading = nn.Linear(self.hidden_size, outputs, bias=False).requires_grad_(False)
        reading.weight.copy_(basis)
        return reading
