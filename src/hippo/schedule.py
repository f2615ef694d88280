"""When a signal's samples were taken, and what passes between them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hippo.values import may_look


class Schedule(NamedTuple):
    """The times of L steps, in float64.

    Attributes:
        gaps: What has passed since the step before, (L,) where all samples of the batch share it, (L, B) where not.
        times: When the steps end, of the same shape.
        still: At which steps no time passes for a sample whose batch mates go on, (L, B); None if that is nowhere.
    """

    gaps: Tensor
    times: Tensor
    still: Tensor | None

    @property
    def relative(self) -> Tensor:
        """LegS's steps dt/t, (L, 1) where all samples share them and (L, B) where not."""
        relative = relative_steps(self.gaps, self.times)
        relative = relative if relative.dim() == 2 else relative.unsqueeze(-1)
        return relative if self.still is None else torch.where(self.still, 0.0, relative)


def regular(length: int, since: Tensor | float | None, origin: int, device: torch.device) -> Schedule:
    """Return the times of steps that are 1 apart.

    Args:
        length: Number of steps L.
        since: Time of the latest sample before them, a number or (B,); None if there is none.
        origin: Time of the first sample in that case.
        device: Where the schedule is needed.
    """
    first = origin if since is None else since + 1
    times = torch.arange(length, dtype=torch.float64, device=device)
    times = times.unsqueeze(-1) + first if isinstance(first, Tensor) else times + first
    schedule = _after(times, since)
    return schedule if times.dim() == 1 else _shared(schedule, since)


def timed(timestamps: Tensor, since: Tensor | float | None, share: bool = True) -> Schedule:
    """Return the times of steps that have timestamps (B, L), after a sample at `since`, a number, (B,) or None.

    Args:
        timestamps: (B, L).
        since: Time of the latest sample before them.
        share: Whether to look if all samples of the batch have the same times.

    Raises:
        ValueError: If timestamps decrease, are negative or not finite, and the host may look.
    """
    times = timestamps.detach().to(torch.float64).mT
    check_timestamps(times, _previous(times, since))
    schedule = _after(times, since)
    return _shared(schedule, since) if share else schedule


def relative_steps(gaps: Tensor, times: Tensor) -> Tensor:
    """Return LegS's steps dt/t; where no time passes, 0 even at t = 0."""
    return torch.where(gaps > 0, gaps / times, 0.0)


def check_real(name: str, times: Tensor) -> None:
    """Raise ValueError unless times are real numbers."""
    if times.dtype == torch.bool or times.is_complex():
        hint = "; pass a mask by its name, mask=…" if times.dtype == torch.bool else ""
        raise ValueError(f"{name} must be real numbers, not {times.dtype}{hint}")


def check_timestamps(times: Tensor, previous: Tensor | None = None) -> None:
    """Raise ValueError unless times (L, B) are finite and each is at least the one before it, (L, B); None where these
    are the same times, and nothing was before 0. Where the host may not look, nothing is raised."""
    if not may_look(times):
        return
    previous = _previous(times, None) if previous is None else previous
    bad = ~(torch.isfinite(times) & (times >= previous))
    if bad.any():
        k, sample = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"timestamps must be finite, non-negative and non-decreasing; sample {sample} of the batch has "
            f"{times[k, sample].item():g} at step {k} after {previous[k, sample].item():g}. Sort the series by time, "
            "and repeat the last timestamp in padding."
        )


def check_clock(timestamps: Tensor, from_zero: bool) -> None:
    """Refuse a clock that began long before the signal, as that of Unix did, where it would spoil the memory, and where
    the host may look.

    Args:
        timestamps: (B, L).
        from_zero: Whether the memory begins at time 0, and has the first sample for all that was before.

    Raises:
        ValueError: If timestamps are too coarse for the gaps between them, or nearly all time is before the first.
    """
    if not may_look(timestamps):
        return
    begin, end = timestamps[:, 0], timestamps[:, -1]
    span, intervals = end - begin, (timestamps[:, 1:] > timestamps[:, :-1]).sum(1)  # padding repeats the last
    remedy = "let time begin with the signal: timestamps - timestamps[:, :1], in float64"
    if timestamps.is_floating_point():
        resolution = torch.finfo(timestamps.dtype).eps * end
        if ((span > 0) & (resolution * intervals > 0.1 * span)).any():
            raise ValueError(
                f"timestamps up to {end.max().item():g} in {timestamps.dtype} are too coarse for the gaps between "
                f"them; {remedy}"
            )
    if from_zero and (begin > torch.where(span > 0, 1000 * span, 1e8)).any():
        raise ValueError(
            f"timestamps from {begin.max().item():g} on: a memory of all the past begins at time 0, so nearly all of "
            f"it would be the first sample; {remedy}"
        )


def following(since: Tensor | float | None, timestamps: Tensor | None) -> tuple[float, float] | None:
    """Return the time of the latest sample and of the next one, as two numbers; None where they are not numbers, or
    not in order.

    Args:
        since: As in `hippo.State`.
        timestamps: (B,), or None where the next sample is 1 later.
    """
    if timestamps is not None:
        if timestamps.shape != (1,) or (isinstance(since, Tensor) and since.shape != (1,)):
            return None
        now = float(timestamps)
    elif since is None or isinstance(since, Tensor):
        return None
    else:
        now = since + 1
    since = math.nan if since is None else float(since)
    return (since, now) if 0 <= since <= now < math.inf else None


def _previous(times: Tensor, since: Tensor | float | None) -> Tensor:
    start = since if isinstance(since, Tensor) else torch.full_like(times[:1], since or 0.0)
    return torch.cat([start.to(times).expand_as(times[:1]), times[:-1]])


def _after(times: Tensor, since: Tensor | float | None) -> Schedule:
    return Schedule(times - _previous(times, since), times, None)


def _shared(schedule: Schedule, since: Tensor | float | None) -> Schedule:
    """Return a schedule (L, B) as (L,) if all samples have the same times, until some of them end."""
    gaps, times, _ = schedule
    still = gaps == 0
    if since is None:
        still[0] = False
    gap, time = gaps.amax(1, keepdim=True), times.amax(1, keepdim=True)
    if torch.compiler.is_exporting():
        return schedule
    shared, some_end = torch.stack([(still | ((gaps == gap) & (times == time))).all(), still.any()]).tolist()
    return Schedule(gap[:, 0], time[:, 0], still if some_end else None) if shared else schedule
