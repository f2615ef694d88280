"""Layers of one state that all features drive and read, with diagonal dynamics: what S5 and the LRU share."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from hippo.kernels import diagonal
from hippo.mixers.base import Mixer, uniform


class MultiInput(Mixer):
    """x_k = a ⊙ x_{k−1} + g ⊙ (B u_k), y_k = Re(C x_k) + D ⊙ u_k, by a scan; a and g follow the time step.

    The state is x (B, P), complex.

    Args:
        features: H.
        state_size: Complex states P.

    Attributes:
        B: (P, H, 2), real and imaginary parts.
        D: (H,).
    """

    takes_rate = takes_gaps = True
    B: nn.Parameter
    D: nn.Parameter

    def __init__(self, features: int, state_size: int) -> None:
        super().__init__(features)
        if state_size < 1:
            raise ValueError(f"state_size must be at least 1, not {state_size}")
        self.state_size = state_size

    @abstractmethod
    def factors(self, rate: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return a and g, each (..., P), for a rate: a number, or a tensor (..., 1)."""

    @abstractmethod
    def readout(self) -> Tensor:
        """Return C (H, P), complex."""

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        return torch.zeros(batch, self.state_size, dtype=like.dtype.to_complex(), device=like.device)

    def forward(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        rate = uniform(rate)
        a, gain = self.factors(rate.unsqueeze(-1) if isinstance(rate, Tensor) else rate)
        driven = x @ self._inputs(gain if gain.dim() == 1 else None)
        u = torch.view_as_complex(driven.unflatten(-1, (self.state_size, 2)))
        u = u if gain.dim() == 1 else gain * u
        states = diagonal.scan(a, u, self.initial_state(len(x), x) if state is None else state)
        y = torch.addcmul(torch.view_as_real(states).flatten(-2) @ self._outputs(), self.D, x)
        return y, states[:, -1]

    def step(self, x: Tensor, state: Tensor | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        if isinstance(rate, Tensor):
            a, gain = self.factors(rate.unsqueeze(-1))
            inputs, outputs = self.prepared(None)
        else:
            a, inputs, outputs = self.prepared(rate)
            gain = None
        u = torch.view_as_complex((x @ inputs).unflatten(-1, (self.state_size, 2)))
        state = torch.addcmul(u if gain is None else gain * u, a, state)
        return torch.addcmul(torch.view_as_real(state).flatten(-2) @ outputs, self.D, x), state

    def prepared(self, rate: float | None) -> tuple[Tensor, ...]:
        """Return both maps in real numbers; where all sequences have one rate, a before them."""
        return self.constants(rate, lambda: self._at(rate))

    def _at(self, rate: float | None) -> tuple[Tensor, ...]:
        if rate is None:
            return self._inputs(None), self._outputs()
        a, gain = self.factors(rate)
        return a, self._inputs(gain), self._outputs()

    def _inputs(self, gain: Tensor | None) -> Tensor:
        """Return B, or g ⊙ B, as a real map (H, 2P) to real and imaginary parts in turn."""
        B = torch.view_as_complex(self.B)
        B = B if gain is None else gain.unsqueeze(-1) * B
        return torch.view_as_real(B.mT).flatten(-2)

    def _outputs(self) -> Tensor:
        """Return Re(C ·) as a real map (2P, H) of real and imaginary parts in turn."""
        return torch.view_as_real(self.readout().conj().resolve_conj()).flatten(-2).mT
