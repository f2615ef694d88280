"""The Legendre Memory Unit without feedback (Chilkuri and Eliasmith 2021, arXiv 2102.11417)."""

from typing import Any

import torch
from torch import Tensor, nn

from hippo import discretize, measures
from hippo.constants import constant
from hippo.kernels import convolution, lti
from hippo.mixers.base import Mixer


class LMU(Mixer):
    """u_k = ReLU(W_u x_k + b_u), the Legendre memory m_k = Ā m_{k−1} + B̄ u_k of each, and y_k = W_m m_k + W_x x_k + b.

    Nothing of the output comes back into the memory, so that W_m of the memory is a convolution of u, and no (B, L, N)
    is made. The state is m (B, channels, N).

    Args:
        features: H.
        memory_order: Coefficients N.
        length: The window θ, in steps.
        channels: Entries of u.
    """

    takes_rate = True
    rate_rule = (
        "A rate r makes the window θ/r samples long. Gaps that differ from sample to sample would take a matrix "
        "exponential of order N for each."
    )

    def __init__(self, features: int, memory_order: int = 64, length: float = 784.0, channels: int = 1) -> None:
        super().__init__(features)
        if memory_order < 1 or channels < 1:
            raise ValueError(f"memory_order={memory_order} and channels={channels} must be at least 1")
        self.memory = LegendreMemory(memory_order, length)
        self.write = nn.Linear(features, channels)
        self.read = nn.Linear(channels * memory_order, features, bias=False)
        self.skip = nn.Linear(features, features)

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, self.write.out_features, self.memory.order)

    def forward(self, x: Tensor, state: Any = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor | None]:
        self.check_rate(rate)
        assert not isinstance(rate, Tensor)
        u = torch.relu(self.write(x))
        if state is not None:
            A, B = self.memory.transition(rate, x)
            m = lti.scan(A, B, u.mT, state).transpose(1, 2)
            return self.read(m.flatten(2)) + self.skip(x), m[:, -1]
        kernels = self.read.weight.unflatten(1, (u.shape[2], -1)) @ self.memory.kernel(x.shape[1], rate, x)
        y = self.skip(x)
        for u_c, kernel in zip(u.split(1, dim=2), kernels.unbind(1), strict=True):
            y = y + convolution.convolve(u_c, kernel)
        return y, None

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        assert not isinstance(rate, Tensor)
        state = self.initial_state(len(x), x) if state is None else state
        A, B = self.prepared(rate)
        m = torch.addcmul(state @ A.mT, torch.relu(self.write(x)).unsqueeze(-1), B)
        return self.read(m.flatten(1)) + self.skip(x), m

    def prepared(self, rate: float | None) -> tuple[Tensor, Tensor]:
        assert rate is not None
        return self.constants(rate, lambda: self.memory.transition(rate, self.read.weight))


class LegendreMemory:
    """The last θ steps of a signal, as the LMU keeps them: by zero-order hold, made in double precision.

    Args:
        order: Coefficients N.
        length: θ.
    """

    def __init__(self, order: int, length: float) -> None:
        self.order = order
        self.measure = measures.LMU(length)

    def transition(self, rate: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return Ā (N, N) and B̄ (N,), in the dtype and on the device of another tensor."""
        A, B = _transition(self.measure, self.order, rate)
        return A.to(like), B.to(like)

    def kernel(self, length: int, rate: float, like: Tensor) -> Tensor:
        """Return the response of the coefficients to an impulse, (N, L)."""
        return _kernel(self.measure, self.order, rate, length).to(like)


@constant(maxsize=16)
def _transition(measure: measures.LMU, order: int, rate: float) -> tuple[Tensor, Tensor]:
    return discretize.zoh(*measure.dynamics(order), rate)


@constant(maxsize=16)
def _kernel(measure: measures.LMU, order: int, rate: float, length: int) -> Tensor:
    return lti.powers(*_transition(measure, order, rate), length).mT.contiguous()
