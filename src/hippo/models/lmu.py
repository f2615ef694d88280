"""The Legendre Memory Unit of Voelker, Kajić and Eliasmith (NeurIPS 2019)."""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from hippo import discretize, measures
from hippo.kernels.legs import Transition
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel


class LMU(SequenceModel):
    """A linear memory of one number a step, coupled to a nonlinear hidden state.

        u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}         what to remember, a scalar
        m_t = Ā m_{t-1} + B̄ u_t                           N coefficients of the last θ steps of u, by zero-order hold
        h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    There are no biases, and timestamps are not used.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        memory_order: Coefficients N; the hidden size where None.
        length: The window θ, in steps.
        trainable_length: Whether θ is learnt, from `length` on.
        initialization: "voelker", the unit's own: encoders LeCun uniform, e_m = 0, kernels Xavier normal. "hippo", that
            of the HiPPO paper's LMU: e_x = 1, W_m Xavier normal, all else 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        memory_order: int | None = None,
        length: float = 200.0,
        trainable_length: bool = False,
        initialization: Literal["voelker", "hippo"] = "voelker",
    ) -> None:
        super().__init__(input_size, hidden_size)
        if initialization not in ("voelker", "hippo"):
            raise ValueError(f"unknown initialization {initialization!r}; choose voelker or hippo")
        order = hidden_size if memory_order is None else memory_order
        self.memory = HiPPO(measures.LMU(length), order, "zoh")
        self.log_length = nn.Parameter(torch.tensor(math.log(length))) if trainable_length else None
        self.initialization = initialization
        self.write_x = nn.Parameter(torch.empty(1, input_size))
        self.write_h = nn.Parameter(torch.empty(1, hidden_size))
        self.write_m = nn.Parameter(torch.empty(1, order))
        self.kernel_x = nn.Parameter(torch.empty(hidden_size, input_size))
        self.kernel_h = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.kernel_m = nn.Parameter(torch.empty(hidden_size, order))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as `initialization` says."""
        voelker = self.initialization == "voelker"
        for encoder in (self.write_x, self.write_h):
            if voelker:
                nn.init.kaiming_uniform_(encoder, nonlinearity="linear")  # LeCun: variance 1 / fan in
            else:
                nn.init.constant_(encoder, 1.0 if encoder is self.write_x else 0.0)
        nn.init.zeros_(self.write_m)
        for kernel in (self.kernel_x, self.kernel_h, self.kernel_m):
            if voelker or kernel is self.kernel_m:
                nn.init.xavier_normal_(kernel)
            else:
                nn.init.zeros_(kernel)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # see HiPPORNN
            return self._unroll(x.to(self.kernel_m))

    def _unroll(self, x: Tensor) -> list[Tensor]:
        written_x = nn.functional.linear(x.transpose(0, 1), self.write_x).squeeze(-1)
        from_x = nn.functional.linear(x.transpose(0, 1), self.kernel_x)
        write = torch.cat([self.write_h, self.write_m], dim=1)[0]
        kernel = torch.cat([self.kernel_h, self.kernel_m], dim=1)

        h = x.new_zeros(len(x), self.hidden_size)
        m = x.new_zeros(len(x), self.memory.order)
        hidden = []
        for u_x, z_x, transition in zip(written_x, from_x, self._transitions(x, m), strict=True):
            u = torch.addmv(u_x, torch.cat([h, m], dim=1), write)
            m = transition(m, u)
            h = torch.tanh(torch.addmm(z_x, torch.cat([h, m], dim=1), kernel.mT))
            hidden.append(h)
        return hidden

    def _transitions(self, x: Tensor, m: Tensor):
        if self.log_length is None:
            return self.memory.transitions(x.shape[1], None, None, like=m)
        A, B = (v.to(m) for v in measures.LMU(1.0).dynamics(self.memory.order))
        return itertools.repeat(Transition(*discretize.zoh(A, B, torch.exp(-self.log_length))), x.shape[1])
