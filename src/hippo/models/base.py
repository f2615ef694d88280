"""The one interface of all sequence models."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hippo.schedule import check_clock, check_real, check_timestamps
from hippo.values import may_look


class SequenceModel(nn.Module, ABC):
    """A network that reads a padded batch of sequences and returns one feature vector for each.

    Subclasses write `unroll` only; lengths, masks and bad input are dealt with here, once.

    Args:
        input_size: Channels C.
        hidden_size: Features D.

    Attributes:
        uses_timestamps: Whether timestamps change what the model does.
        needs_timestamps: Whether the gaps between observations are an input of the model, not to be done without.
        takes_channel_mask: Whether the model knows what to do where some channels of a step are missing.
        lr_factors: Factors on the learning rate, by a parameter's whole name or the first part of it; 1 for the others.
        undecayed: Whole names of the parameters that weight decay leaves alone.
        evaluations: Vector-field evaluations in the latest forward pass; None where there is no such field.
    """

    needs_timestamps: ClassVar[bool] = False
    uses_timestamps: bool = False
    takes_channel_mask: ClassVar[bool] = False
    lr_factors: ClassVar[Mapping[str, float]] = {}
    undecayed: frozenset[str] = frozenset()
    evaluations: int | None = None

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @abstractmethod
    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the hidden states after each step, (B, L, D).

        Args:
            x: (B, L, C), 0 where a channel is missing.
            timestamps: (B, L), or None.
            mask: (B, L, C), True where a channel was observed, or None where all were.
        """

    def last(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the hidden states after the last step, (B, D), as of `unroll`; for models that have a shorter way."""
        return self._checked(x, timestamps, mask)[:, -1].clone()  # not the memory of all states

    def _checked(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        hidden = self.unroll(x, timestamps, mask)
        if hidden.dim() != 3 or hidden.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"{type(self).__name__}.unroll must return a state for each step of x {tuple(x.shape)}, "
                f"(B, L, D) = ({len(x)}, {x.shape[1]}, D), not {tuple(hidden.shape)}"
            )
        return hidden

    def read_out(self, outputs: int) -> nn.Module:
        """Return what makes numbers of the features (B, D), (B, outputs): a linear map, to be learnt."""
        return nn.Linear(self.hidden_size, outputs)

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Return the features (B, D) at each sequence's end, from what `unroll` gets and lengths (B,), or None."""
        if lengths is None:
            return self.last(x, timestamps, mask)
        return self._checked(x, timestamps, mask)[torch.arange(len(x), device=x.device), lengths - 1]

    def forward(
        self,
        x: Tensor,
        timestamps: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the features at each sequence's end.

        Args:
            x: Padded batch (B, L, C), L ≥ 1.
            timestamps: (B, L), non-negative and non-decreasing; ignored by models that have no use for them.
            mask: (B, L), boolean, True where a step was observed. Steps that were not are left out, as if never
                recorded, so what x holds there does not matter. Models that take a mask for each channel, (B, L, C),
                leave out the steps at which no channel was observed.
            lengths: (B,), number of valid steps, 1 ≤ length ≤ L; what lies beyond does not matter. Without it every
                sequence is L long, its padding included.

        Returns:
            Features (B, D).

        Raises:
            ValueError: If shapes or dtypes disagree, a length exceeds L, a sequence has no observed step, an observed
                value is not finite, or timestamps decrease, are not finite, too coarse, or missing though needed.
                On a GPU nobody looks at values, lengths and timestamps, for which the host would wait at every step:
                `hippo.data` has looked at them when it read them.
        """
        name = type(self).__name__
        for argument, value in (("x", x), ("timestamps", timestamps), ("mask", mask), ("lengths", lengths)):
            if not isinstance(value, Tensor) and (value is not None or argument == "x"):
                raise ValueError(
                    f"{argument} must be a tensor, not {type(value).__name__}; torch.as_tensor({argument}) makes one "
                    "of an array"
                )
        if timestamps is not None:
            check_real("timestamps", timestamps)
        if x.dim() != 3 or x.shape[0] == 0 or x.shape[1] == 0 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be (B, L, {self.input_size}) with B ≥ 1 and L ≥ 1, not {tuple(x.shape)}")
        if x.dtype != (dtype := next((weight.dtype for weight in self.parameters()), x.dtype)):
            raise ValueError(f"x is {x.dtype} and the weights are {dtype}; convert one, as by x.to({dtype})")
        by_channel = mask is not None and mask.dim() == 3
        for argument, value, shape in (
            ("timestamps", timestamps, x.shape[:2]),
            ("mask", mask, x.shape if by_channel else x.shape[:2]),
            ("lengths", lengths, x.shape[:1]),
        ):
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{argument} must be {tuple(shape)} to match x {tuple(x.shape)}, not {tuple(value.shape)}"
                )
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError(f"mask must be of booleans, True where something was observed, not {mask.dtype}")
        if lengths is not None and (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool):
            raise ValueError(f"lengths must be whole numbers, not {lengths.dtype}")
        if by_channel and not self.takes_channel_mask:
            raise ValueError(
                f"{name} takes no mask for each channel; fill the gaps in, or use GRUD, GRUDt, ODERNN or NeuralCDE"
            )
        if self.needs_timestamps and timestamps is None:
            raise ValueError(f"{name} needs timestamps; they are (B, L)")

        channels = mask if by_channel else None
        if mask is not None or lengths is not None:
            order, lengths = _observed(x, mask if channels is None else channels.any(-1), lengths)
            everywhere = order.unsqueeze(-1).expand_as(x)
            x = x.gather(1, everywhere)
            timestamps = None if timestamps is None else timestamps.gather(1, order)
            channels = None if channels is None else channels.gather(1, everywhere)
        if channels is not None:
            x = x.masked_fill(~channels, 0.0)
        if may_look(x) and not torch.isfinite(x).all():
            raise ValueError("x holds NaN or infinity; say in `mask` what was not observed, or fill it in")
        if self.uses_timestamps and timestamps is not None:
            check_timestamps(timestamps.mT)
            check_clock(timestamps, from_zero=False)
        features = self.encode(x, timestamps, channels, lengths)
        if features.shape != (shape := (len(x), self.hidden_size)):
            raise ValueError(f"{name}'s features must be (B, D) = {shape}, not {tuple(features.shape)}")
        return features


def gaps(timestamps: Tensor | None, like: Tensor) -> Tensor:
    """Return the time from each step back to the one before, 0 at the first, (B, L), in the dtype of `like`."""
    assert timestamps is not None
    times = timestamps.to(torch.float64)
    return torch.diff(times, dim=1, prepend=times[:, :1]).to(like)


def units(timestamps: Tensor | None, unit: float | None, like: Tensor) -> Tensor | None:
    """Return the units of time that each step stands for, (L, B, 1), the first for one; None where one or the other is
    None, and on a CPU where every step stands for one, which the kernels without gaps then serve."""
    if timestamps is None or unit is None:
        return None
    elapsed = gaps(timestamps, like) / unit
    elapsed[:, 0] = 1.0
    if may_look(elapsed) and bool((elapsed == 1).all()):
        return None
    return elapsed.mT.unsqueeze(-1)


def with_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return [x, mask], (B, L, 2C); without a mask everything was observed."""
    return torch.cat([x, torch.ones_like(x) if mask is None else mask.to(x)], dim=-1)


def positive(**sizes: int) -> None:
    """Raise ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


def positive_time(**lengths: float) -> None:
    """Raise ValueError unless every length of time is above 0 and finite."""
    for name, length in lengths.items():
        if not (isinstance(length, (int, float)) and 0 < length < math.inf):
            raise ValueError(f"{name} must be above 0 and finite, not {length!r}")


def _observed(x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which steps were observed, (B, L): in their order, the last repeated, and how many, (B,).

    What repeats the last observed step comes after it, where no causal model can see it.
    """
    steps = torch.arange(x.shape[1], device=x.device)
    valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    if lengths is not None:
        if may_look(lengths) and (lengths > x.shape[1]).any():
            raise ValueError(f"lengths must be at most {x.shape[1]}, not {lengths.tolist()}")
        valid = valid & (steps < lengths.unsqueeze(1))
    count = valid.sum(1)
    if may_look(count) and (count == 0).any():
        empty = int((count == 0).nonzero()[0])
        raise ValueError(f"sequence {empty} of the batch has no observed step; leave it out or give it one")
    order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)
    return order.gather(1, torch.minimum(steps.expand_as(order), count.unsqueeze(1) - 1)), count
