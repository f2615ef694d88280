"""How much of a signal a memory keeps, and how many coefficients that takes: what to look at before choosing N."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hippo.measures import Measure
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
    for past, c in zip(_pasts(memory.measure, signal, timestamps), coefficients, strict=True):
        c = c.view(-1, memory.order)
        left = sum(w @ (f - basis @ c.mT).square() for basis, w, f in past.pieces(memory.measure, memory.order))
        shares.append(left / past.variance)
    return torch.stack(shares).view(coefficients.shape[:-1])  # type: ignore[arg-type]


def best(measure: Measure, order: int, signal: Tensor, timestamps: Tensor | None = None) -> Tensor:
    """Return the share that the best 1, 2, …, N coefficients miss, as `missed` has it: without a memory's steps.

    By Parseval, ∫ (f − f̂)² dμ = ∫ f² dμ − ‖c‖², f being held from sample to sample.

    Args:
        measure: With an orthonormal basis, as all in `hippo.measures` but LMU, and in `hippo.weighted`.
        order: N.
        signal: As of `missed`.
        timestamps: As of `missed`.

    Returns:
        (B, N) or (B, C, N), float64; NaN where the signal does not change.

    Raises:
        ValueError: As of `missed`.
    """
    shares = []
    for past in _pasts(measure, signal, timestamps):
        c = sum(basis.mT @ (w.unsqueeze(-1) * f) for basis, w, f in past.pieces(measure, order))
        left = past.weights @ past.samples.square() - torch.cumsum(c.square(), dim=0)  # type: ignore[union-attr]
        shares.append((left.clamp(min=0) / past.variance).mT)
    return torch.stack(shares).view(*signal.shape[:1], *signal.shape[2:], order)


def order_for(
    measure: Measure, signal: Tensor, timestamps: Tensor | None = None, *, miss: float = 0.01, most: int = 1024
) -> int | None:
    """Return the least order whose best coefficients miss at most a share of every signal; None where `most` miss more.

    Args:
        measure: With an orthonormal basis.
        signal: As of `missed`. Signals that do not change count for nothing.
        timestamps: As of `missed`.
        miss: The share of the variance, between 0 and 1.
        most: The highest order that is looked at.

    Raises:
        ValueError: As of `missed`, or if `miss` is not between 0 and 1.
    """
    if not 0 < miss < 1:
        raise ValueError(f"miss is a share of the signal's variance, between 0 and 1, not {miss}")
    worst = best(measure, most, signal, timestamps).nan_to_num(0.0).view(-1, most).amax(dim=0)
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
    def variance(self) -> Tensor:
        """(C,); NaN where it is 0 but for rounding."""
        found = self.weights @ (self.samples - self.weights @ self.samples).square()
        return torch.where(found > 1e-24 * (self.weights @ self.samples.square()), found, torch.nan)

    def pieces(self, measure: Measure, order: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the basis (≤ M, N), weights and samples, some at a time."""
        count = max(1, _NUMBERS // order)
        for times, w, f in zip(*(v.split(count) for v in self[:3]), strict=True):
            yield measure.basis(order, times, self.now), w, f


def _pasts(measure: Measure, signal: Tensor, timestamps: Tensor | None) -> Iterator[_Past]:
    """Yield each signal's past. A sample stands for the time since the one before, at two Gauss nodes each."""
    values = signal.detach().to("cpu", torch.float64).flatten(2) if signal.dim() == 3 else signal.detach().unsqueeze(-1)
    values = values.to("cpu", torch.float64)
    ends = torch.arange(1, values.shape[1] + 1).expand(len(values), -1) if timestamps is None else timestamps
    ends = ends.detach().to("cpu", torch.float64)
    first = ends[:, :1] if timestamps is not None and not measure.scale_invariant else torch.zeros_like(ends[:, :1])
    begins = torch.cat([first, ends[:, :-1]], dim=1)
    nodes = torch.tensor([0.5 - 12**-0.5, 0.5 + 12**-0.5], dtype=torch.float64)
    for begin, end, f in zip(begins, ends, values, strict=True):
        now = float(end[-1])
        times = torch.lerp(begin.unsqueeze(-1), end.unsqueeze(-1), nodes).flatten()
        inside = (times > measure.window(now)[0]) & (end > begin).repeat_interleave(2)
        if inside.sum() < 4:
            raise ValueError("fewer than two samples lie in the memory's window, which says nothing of what it keeps")
        times, w = times[inside], (end - begin).repeat_interleave(2)[inside]
        w = w * measure.weight(times, now)
        yield _Past(times, w / w.sum(), f.repeat_interleave(2, dim=0)[inside], now)
