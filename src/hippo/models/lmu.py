"""The Legendre Memory Unit of Voelker, Kajić and Eliasmith (NeurIPS 2019)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hippo import discretize, measures
from hippo.kernels import cells
from hippo.memory import HiPPO
from hippo.models.base import SequenceModel


class LMU(SequenceModel):
    """A linear memory of one number a step, coupled to a nonlinear hidden state.

        u_t = e_x x_t + e_h h_{t-1} + e_m m_{t-1}         what to remember, a scalar
        m_t = Ā m_{t-1} + B̄ u_t                           N coefficients of the last θ steps of u, by zero-order hold
        h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    There are no biases, and timestamps are not used. The variant in the HiPPO paper's code has a gate in addition,
    h_t = (1 − g_t) h_{t-1} + g_t tanh(…) with g_t = σ(V_x x_t + V_h h_{t-1} + V_m m_t).

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        memory_order: Coefficients N; the hidden size where None.
        length: The window θ, in steps.
        trainable_length: Whether θ is learnt, from `length` on.
        initialization: "general": encoders LeCun uniform, e_m = 0, kernels Xavier normal. "psmnist", Voelker et al.'s
            for permuted MNIST and the HiPPO paper's: e_x = 1, W_m Xavier normal, all else 0. A gate is Kaiming normal.
        gated: Whether there is a gate.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        memory_order: int | None = None,
        length: float = 200.0,
        trainable_length: bool = False,
        initialization: Literal["general", "psmnist"] = "general",
        gated: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size)
        if initialization not in ("general", "psmnist"):
            raise ValueError(f"unknown initialization {initialization!r}; choose general or psmnist")
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
        self.gate = nn.Linear(input_size + hidden_size + order, hidden_size, bias=False) if gated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as `initialization` says."""
        general = self.initialization == "general"
        for encoder in (self.write_x, self.write_h):
            if general:
                nn.init.kaiming_uniform_(encoder, nonlinearity="linear")  # LeCun: variance 1 / fan in
            else:
                nn.init.constant_(encoder, 1.0 if encoder is self.write_x else 0.0)
        nn.init.zeros_(self.write_m)
        for kernel in (self.kernel_x, self.kernel_h, self.kernel_m):
            if general or kernel is self.kernel_m:
                nn.init.xavier_normal_(kernel)
            else:
                nn.init.zeros_(kernel)
        if self.gate is not None:
            nn.init.kaiming_normal_(self.gate.weight, nonlinearity="linear")

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # see HiPPORNN
            kernel_x, kernel_h, kernel_m = self.kernel_x, self.kernel_h, self.kernel_m
            if self.gate is not None:
                gates = self.gate.weight.split([self.input_size, self.hidden_size, self.memory.order], dim=1)
                kernels = zip(gates, (kernel_x, kernel_h, kernel_m), strict=True)
                kernel_x, kernel_h, kernel_m = (torch.cat(pair) for pair in kernels)
            x = x.transpose(0, 1)
            from_x, written = nn.functional.linear(x, kernel_x), nn.functional.linear(x, self.write_x).squeeze(-1)
            step, write = self._transition(x), (self.write_h[0], self.write_m[0])
            return cells.lmu(from_x, written, kernel_h, kernel_m, *step, *write).transpose(0, 1)

    def _transition(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return Ā (N, N) and B̄ (N,)."""
        if self.log_length is None:
            step: Any = self.memory.transition(like)
            return step
        A, B = (v.to(like.device) for v in measures.LMU(1.0).dynamics(self.memory.order))
        A, B = discretize.zoh(A, B, torch.exp(-self.log_length.double()))
        return A.to(like), B.to(like)
