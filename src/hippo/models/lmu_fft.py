"""The Legendre Memory Unit without feedback, which need not be unrolled (arXiv 2102.11417)."""

import torch
from torch import Tensor, nn

from hippo.kernels import lti
from hippo.mixers.lmu import LegendreMemory
from hippo.models.base import SequenceModel, positive, positive_time


class LMUFFT(SequenceModel):
    """h_L = ReLU(W [m_L, x_L] + b), with m the Legendre memory of u_k = ReLU(W_u x_k + b_u): as published for psMNIST.

    Only the last state is read, and only that one is made, as a product with the memory's kernel: no step is taken, and
    no FFT either. A deep network of such memories is `Stack` with `hippo.mixers.LMU`.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        memory_order: Coefficients N of the memory.
        length: The window θ, in steps.
        channels: Entries of u.
        dropout: Fraction of the features left out.
        rate: Factor on the time step; 2 where samples are twice as far apart as in training. May be set later.

    Raises:
        ValueError: If a setting is beyond its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 346,
        memory_order: int = 468,
        length: float = 784.0,
        channels: int = 1,
        dropout: float = 0.0,
        rate: float = 1.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive(memory_order=memory_order, channels=channels)
        positive_time(rate=rate)
        self.memory = LegendreMemory(memory_order, length)
        self.write = nn.Linear(input_size, channels)
        self.hidden = nn.Linear(channels * memory_order + input_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.rate = rate

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        length = x.shape[1]
        kernel = self.memory.kernel(length, self.rate, x).flip(1).mT  # of the earliest sample first, (L, N)
        u, last = torch.relu(self.write(x)).mT, x[:, -1]
        if lengths is not None:  # every sequence is moved to the end, after zeros
            at = torch.arange(length, device=x.device) - (length - lengths.unsqueeze(1))
            u = u.gather(2, at.clamp(min=0).unsqueeze(1).expand_as(u)) * (at >= 0).unsqueeze(1)
            last = x[torch.arange(len(x), device=x.device), lengths - 1]
        return self._read(u @ kernel, last)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the features after each step, (B, L, D)."""
        A, B = self.memory.transition(self.rate, x)
        u = torch.relu(self.write(x)).mT
        m = lti.scan(A, B, u, u.new_zeros(*u.shape[:2], self.memory.order))
        return self._read(m.transpose(1, 2), x)

    def _read(self, m: Tensor, x: Tensor) -> Tensor:
        """Return the features of memories (..., channels, N) and samples (..., C)."""
        return self.dropout(torch.relu(self.hidden(torch.cat([m.flatten(-2), x], dim=-1))))
