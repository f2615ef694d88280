"""A memory by itself: nothing is learnt, and what it holds is read back as mathematics has it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hippo.measures import Measure
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel


class Memory(SequenceModel):
    """The coefficients of a signal of one channel, and as its read-out the signal that they stand for.

    Args:
        input_size: Channels, 1.
        hidden_size: Coefficients N.
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
        super().__init__(input_size, hidden_size)
        if input_size != 1:
            raise ValueError(f"Memory reads one channel, not {input_size}")
        self.memory = HiPPO(measure, hidden_size, discretization)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Sequence[Tensor]:
        return self.memory(x[..., 0], timestamps)[0].unbind(1)

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return self.memory.remember(x[..., 0], timestamps).coefficients
        return super().encode(x, timestamps, mask, lengths)

    def read_out(self, outputs: int) -> nn.Module:
        """Return what reads the signal back at equidistant times, from the beginning of the window to its end."""
        oldest, newest = self.memory.measure.window(1.0)
        if oldest == -torch.inf:
            raise ValueError(f"{self.memory.measure} remembers the past without end: there is no window to read back")
        times = torch.linspace(oldest, newest, outputs, dtype=torch.float64)
        basis = self.memory.measure.basis(self.hidden_size, times, 1.0)
        reading = nn.Linear(self.hidden_size, outputs, bias=False).requires_grad_(False)
        reading.weight.copy_(basis)
        return reading
