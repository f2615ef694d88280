"""How much of a signal a memory keeps, and how many coefficients that takes: what to look at before choosing N."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hippo import schedule
from hippo.measures import LagT, LegS, Measure
from hippo.memory import HiPPO

_NUMBERS = 2**23  # of a basis that are held at a time


def missed(memory: HiPPO, signal: Tensor, timestamps: Tensor | None = None) -> Tensor:
    """Return which share of a signal a memory no longer holds after the last sample: ∫ (f − f̂)² dμ / ∫ (f − f̄)² dμ.

    1 is what a memory of the mean f̄ alone misses. The measure says which past counts. Two losses are in it: what N
    coefficients cannot hold, which `best` has by itself, and what the memory's steps add.

    Args:
        memory: Of any measure with a basis.
        signal: (B, L) or (B, L, C).
        timestamps: (B, L), as of `HiPPO.forward`.

    Returns:
        (B,) or (B, C), float64; NaN where the signal does not change.

    Raises:
        ValueError: As `HiPPO.forward`, or if fewer than two samples lie in the window.
    """
    coefficients = memory.remember(signal, timestamps=timestamps).coefficients.detach().to("cpu", torch.float64)
    shares = []
    for past, c in zip(_pasts(memory.measure, memory.order, signal, timestamps), coefficients, strict=True):
        c = c.view(-1, memory.order)
        left = sum(w @ (f - basis @ c.mT).square() for basis, w, f in past.pieces(memory.measure, memory.order))
        shares.append(left / past.variance)
    return torch.stack(shares).view(coefficients.shape[:-1])  # type: ignore[arg-type]


def best(measure: Measure, order: int, signal: Tensor, timestamps: Tensor | None = None) -> Tensor:
    """Return the share that the best 1, 2, …, N coefficients miss, as `missed` has it: without a memory's steps.

    They are those of least squares under μ where there are samples, the signal being held from one to the next. (Where
    it does not fill the window, functions of high degree are those before them but for rounding, and are left out: then
    the share is an upper bound.)

    Args:
        measure: With a basis.
        order: N.
        signal: As of `missed`.
        timestamps: As of `missed`.

    Returns:
        (B, N) or (B, C, N), float64; NaN where the signal does not change.

    Raises:
        ValueError: As of `missed`, or if N is below 1.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, not {order}")
    shares = []
    for past in _pasts(measure, order, signal, timestamps):
        # Of R in QR = [basis, signals], the upper rows say what each further function explains of each signal.
        triangle = torch.zeros(0, order + past.samples.shape[1] + 1, dtype=torch.float64)
        for basis, w, f in past.pieces(measure, order):
            rows = torch.cat([basis, f - past.mean, torch.ones_like(f[:, :1])], dim=1) * w.sqrt().unsqueeze(-1)
            triangle = torch.linalg.qr(torch.cat([triangle, rows]), mode="r").R
        sizes = triangle[:, :order].norm(dim=0)
        new = torch.nonzero(triangle.diagonal()[:order].abs() > 1e-12 * sizes[: len(triangle)]).squeeze(1)
        triangle = torch.linalg.qr(torch.cat([triangle[:, new], triangle[:, order:]], dim=1), mode="r").R
        signals = triangle[:, len(new) : -1] + triangle[:, -1:] * past.mean
        explained = torch.zeros(order + 1, past.samples.shape[1], dtype=torch.float64)
        explained[new] = signals[: len(new)].square()
        explained[order] = signals[len(new) :].square().sum(0)  # by none
        left = explained.flip(0).cumsum(0).flip(0)[1:]
        shares.append((left / past.variance).mT)
    return torch.stack(shares).view(*signal.shape[:1], *signal.shape[2:], order)


def order_for(
    measure: Measure, signal: Tensor, timestamps: Tensor | None = None, *, miss: float = 0.01, most: int = 1024
) -> int | None:
    """Return the least order whose best coefficients miss at most a share of every signal; None where `most` miss more.

    Args:
        measure: With a basis.
        signal: As of `missed`. Signals that do not change count for nothing.
        timestamps: As of `missed`.
        miss: The share of the variance, between 0 and 1.
        most: The highest order that is looked at.

    Raises:
        ValueError: As of `missed`, or if `miss` is not between 0 and 1, or `most` below 1.
    """
    if not 0 < miss < 1:
        raise ValueError(f"miss is a share of the signal's variance, between 0 and 1, not {miss}")
    shares = best(measure, most, signal, timestamps).view(-1, most)
    worst = shares[~shares[:, 0].isnan()].amax(dim=0) if not shares.isnan().all() else torch.zeros(most)
    enough = torch.nonzero(worst <= miss)
    return int(enough[0]) + 1 if len(enough) else None


class _Past(NamedTuple):
    """Samples in the window: places in time (M,) and the measure's weights there, which sum to 1; samples (M, C); and
    the time of the last."""

    times: Tensor
    weights: Tensor
    samples: Tensor
    now: float

    @property
    def mean(self) -> Tensor:
        """(C,)."""
        return self.weights @ self.samples

    @property
    def variance(self) -> Tensor:
        """(C,); NaN where it is 0 but for rounding."""
        found = self.weights @ (self.samples - self.mean).square()
        return torch.where(found > 1e-24 * (self.weights @ self.samples.square()), found, torch.nan)

    def pieces(self, measure: Measure, order: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the basis (≤ M, N), weights and samples, some at a time."""
        count = max(1, _NUMBERS // order)
        for times, w, f in zip(*(v.split(count) for v in self[:3]), strict=True):
            yield measure.basis(order, times, self.now), w, f


def _pasts(measure: Measure, order: int, signal: Tensor, timestamps: Tensor | None) -> Iterator[_Past]:
    """Yield each signal's past, at the nodes of `_nodes`: a sample stands for the time since the one before."""
    _check(measure, signal, timestamps)
    values = signal.detach().to("cpu", torch.float64)
    values = values.flatten(2) if values.dim() == 3 else values.unsqueeze(-1)
    ends = torch.arange(1, values.shape[1] + 1).expand(len(values), -1) if timestamps is None else timestamps
    ends = ends.detach().to("cpu", torch.float64)
    first = ends[:, :1] if timestamps is not None and not measure.scale_invariant else torch.zeros_like(ends[:, :1])
    begins = torch.cat([first, ends[:, :-1]], dim=1)
    for begin, end, f in zip(begins, ends, values, strict=True):
        now = float(end[-1])
        oldest = max(measure.window(now)[0], float(begin[0]))
        inside = (end > oldest) & (end > begin)
        if inside.sum() < 2:
            raise ValueError("fewer than two samples lie in the memory's window, which says nothing of what it keeps")
        times, w, sample = _nodes(measure, order, begin[inside].clamp(min=oldest), end[inside], oldest, now)
        w = w * measure.weight(times, now)
        counts = w > 0  # where a weight has died away a basis may be infinite
        times, w, sample = times[counts], w[counts], sample[counts]
        yield _Past(times, w / w.sum(), f[inside][sample], now)


def _nodes(
    measure: Measure, order: int, begin: Tensor, end: Tensor, oldest: float, now: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return places in time (M,), their lengths (M,), and which of the intervals from `begin` to `end` (K,) each is in.

    In the angle θ of time = oldest + (now − oldest) (1 − cos θ)/2 polynomials of degree N wave N/2π times a unit, and a
    weight that is infinite at an end as an inverse root is finite. (One that rises faster, as s^−0.9, is not: it loses
    some per cent of its share there.) Each interval has as many of Gauss's nodes as its waves, and the fall of the
    weight over it, ask for.
    """
    span = now - oldest
    low, high = (torch.arccos((1 - 2 * (t - oldest) / span).clamp(-1, 1)) for t in (begin, end))
    falls = [measure.weight(t, now).log().nan_to_num(0.0, 0.0, 0.0) for t in (begin, end)]
    waves = order * (high - low) + (falls[1] - falls[0]).abs().clamp(max=8.0)
    pieces = (waves / 64).ceil().long().clamp(min=1)  # of long intervals
    which = torch.arange(len(begin)).repeat_interleave(pieces)
    place = torch.arange(len(which)) - (pieces.cumsum(0) - pieces)[which]
    width, waves = ((v / pieces)[which] for v in (high - low, waves))
    low = low[which] + place * width
    counts = torch.where(waves < 0.02, 1, torch.where(waves < 0.5, 2, waves.ceil().long() + 2))
    parts = []
    for count in counts.unique().tolist():
        own = torch.nonzero(counts == count).squeeze(1)
        x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(count))
        angle = low[own, None] + width[own, None] * (x + 1) / 2
        weight = width[own, None] * w / 2 * span / 2 * torch.sin(angle)
        parts.append(
            (
                (oldest + span * torch.sin(angle / 2) ** 2).flatten(),
                weight.flatten(),
                which[own].repeat_interleave(count),
            )
        )
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _check(measure: Measure, signal: Tensor, timestamps: Tensor | None) -> None:
    """Refuse what `HiPPO.forward` refuses."""
    if not isinstance(measure, Measure):
        raise ValueError(f"measure must be a Measure, as hippo.measures.LegS() is, not {measure!r}")
    HiPPO(LegS() if measure.scale_invariant else LagT(1.0), 1)._begin(signal, timestamps, None)
    if not torch.isfinite(signal).all():
        raise ValueError("signal must hold finite numbers: it has NaN or infinity")
    if timestamps is not None:
        schedule.check_timestamps(timestamps.mT)
