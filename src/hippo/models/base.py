"""The one interface of all sequence models."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SequenceModel(nn.Module, ABC):
    """A network that reads a padded batch of sequences and returns one feature vector for each.

    Subclasses write `unroll` only; lengths, masks and bad input are dealt with here, once.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        self.input_size = input_size
        self.hidden_size = hidden_size

    @abstractmethod
    def unroll(self, x: Tensor, timestamps: Tensor | None) -> Sequence[Tensor] | Tensor:
        """Return the hidden states (B, D) after each step of x (B, L, C), as a sequence or a tensor over L."""

    def forward(
        self,
        x: Tensor,
        timestamps: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the features at each sequence's end.

        Args:
            x: Padded batch (B, L, C), L ≥ 1.
            timestamps: (B, L), non-negative and non-decreasing; ignored by models that have no use for them.
            mask: (B, L), True where a step was observed. Steps that were not are left out, as if never recorded, so
                what x holds there does not matter.
            lengths: (B,), number of valid steps, 1 ≤ length ≤ L; what lies beyond does not matter. Without it every
                sequence is L long, its padding included.

        Returns:
            Features (B, D).

        Raises:
            ValueError: If shapes disagree, a length exceeds L, or a sequence has no observed step.
        """
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be (B, L, {self.input_size}) with L ≥ 1, not {tuple(x.shape)}")
        for name, value, shape in (
            ("timestamps", timestamps, x.shape[:2]),
            ("mask", mask, x.shape[:2]),
            ("lengths", lengths, x.shape[:1]),
        ):
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {tuple(shape)} to match x {tuple(x.shape)}, not {tuple(value.shape)}")
        if mask is None and lengths is None:
            return self.unroll(x, timestamps)[-1]

        steps = torch.arange(x.shape[1], device=x.device)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        if lengths is not None:
            valid = valid & (steps < lengths.unsqueeze(1))
            if lengths.is_floating_point() or (lengths > x.shape[1]).any():
                raise ValueError(f"lengths must be whole numbers of at most {x.shape[1]}, not {lengths.tolist()}")
        lengths = valid.sum(1)
        if (lengths == 0).any():
            empty = int((lengths == 0).nonzero()[0])
            raise ValueError(f"sequence {empty} of the batch has no observed step; leave it out or give it one")
        # Observed steps first, in their order; the rest repeats the last of them, which no causal model can see.
        order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)
        order = order.gather(1, torch.minimum(steps.expand_as(order), lengths.unsqueeze(1) - 1))
        x = x.gather(1, order.unsqueeze(-1).expand_as(x))
        timestamps = None if timestamps is None else timestamps.gather(1, order)
        hidden = self.unroll(x, timestamps)
        hidden = hidden if isinstance(hidden, Tensor) else torch.stack(tuple(hidden))
        return hidden[lengths - 1, torch.arange(len(x), device=x.device)]
