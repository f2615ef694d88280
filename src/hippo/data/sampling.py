"""How series are sampled: at another rate, on another clock, with points missing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What becomes of a series before a model gets it.

    Args:
        rate: Samples for each of the original ones: 0.5 takes every second one, 2 puts one more between any two. What
            falls between samples is interpolated linearly.
        time_scale: Factor on the timestamps. With `time_scale` equal to `rate` they count samples, whatever their rate.
        drop: Fraction of the samples left out at random.

    Raises:
        ValueError: If rate or time_scale is not above 0 and finite, or drop not within [0, 1).
    """

    rate: float = 1.0
    time_scale: float = 1.0
    drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rate", "time_scale"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a fraction of the samples, at least 0 and below 1, not {self.drop}")

    @classmethod
    def of(cls, settings: Mapping[str, float], where: str) -> "Sampling":
        """Return the sampling that a mapping describes. Raises ValueError that names the mapping, by `where`."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in settings if name not in known]:
            raise ValueError(f"{where}.{unknown[0]}: there is no such setting; valid are {', '.join(known)}")
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


class Sampled(NamedTuple):
    """Sampled series.

    Attributes:
        x: (B, L, C), 0 beyond a series' length.
        timestamps: (B, L), in units of the original sampling interval; the last one repeated beyond the length.
        lengths: (B,).
    """

    x: Tensor
    timestamps: Tensor
    lengths: Tensor


def sample(x: Tensor, lengths: Tensor, sampling: Sampling, seed: int) -> Sampled:
    """Sample series that were recorded at regular intervals.

    Of a series' n samples int(n · (1 − drop)) are kept, and at least one. Which ones depends on the seed only; those
    kept at one fraction are among those kept at a smaller one.

    Args:
        x: (B, L, C), each series padded to L.
        lengths: (B,), between 1 and L.
        sampling: How.
        seed: Seed of what is dropped.

    Returns:
        As many steps as the longest series has left.

    Raises:
        ValueError: If the rate leaves no series more than one sample.
    """
    # Rounding must not take away the sample at the very end: 3 * (1 / 3) may be less than 1.
    lengths = ((lengths - 1) * sampling.rate + 1e-9).long() + 1
    if lengths.max() == 1 < x.shape[1]:
        raise ValueError(f"rate={sampling.rate:g} leaves a single sample of {x.shape[1]}; choose a greater one")
    at = torch.arange(int(lengths.max()), dtype=torch.float64, device=x.device) / sampling.rate
    before = at.add(1e-9).long().clamp(max=x.shape[1] - 1)
    after = (before + 1).clamp(max=x.shape[1] - 1)
    between = (at - before).clamp(min=0).to(x).unsqueeze(-1)
    x = torch.lerp(x[:, before], x[:, after], between)

    steps = torch.arange(len(at), device=x.device).expand(x.shape[:2])
    order = steps
    if sampling.drop:
        generator = torch.Generator("cpu").manual_seed(seed)
        chance = torch.rand(x.shape[:2], generator=generator, dtype=torch.float64, device="cpu").to(x.device)
        rank = chance.masked_fill(steps >= lengths.unsqueeze(1), 2.0).argsort(dim=1).argsort(dim=1)
        lengths = (lengths * (1 - sampling.drop) + 1e-9).long().clamp(min=1)
        order = torch.where(rank < lengths.unsqueeze(1), steps, len(at)).sort(dim=1).values[:, : int(lengths.max())]
    beyond = torch.arange(order.shape[1], device=x.device) >= lengths.unsqueeze(1)
    last = order.gather(1, lengths.unsqueeze(1) - 1)
    order = torch.where(beyond, last, order)
    x = x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2])).masked_fill(beyond.unsqueeze(-1), 0.0)
    return Sampled(x, (at * sampling.time_scale)[order], lengths)
