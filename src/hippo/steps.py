"""The steps of a memory over a signal, one for each sample, as functions and in the forms that kernels take."""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hippo import schedule, transitions
from hippo.constants import constant
from hippo.kernels import legs
from hippo.kernels.gated import LegSSteps, LTIStep, Step
from hippo.measures import Measure
from hippo.schedule import Schedule
from hippo.transitions import Filling
from hippo.values import may_look

_NUMBERS = 2**20  # of matrices that are computed in one go


class Law(NamedTuple):
    """What decides a memory's steps: see `hippo.HiPPO`."""

    measure: Measure
    order: int
    discretization: str | float

    @property
    def linear_time(self) -> bool:
        """Whether a step is that of `hippo.kernels.legs`, which takes O(N)."""
        return self.measure.scaled_power is not None and self.discretization != "zoh"

    @property
    def power(self) -> float:
        """The power of the measure, which has one."""
        assert self.measure.scaled_power is not None
        return self.measure.scaled_power

    @property
    def origin(self) -> int:
        """Time of the first sample of a signal without timestamps."""
        return 0 if self.measure.scale_invariant and self.discretization != "zoh" else 1

    def schedule(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, device: torch.device
    ) -> Schedule:
        """Return the times of L steps after a sample at `since`, a number, (B,) or None."""
        if timestamps is None:
            return schedule.regular(length, since, self.origin, device)
        # LegS's steps cost O(N) with times of their own as well: on a GPU the host need not wait to find out.
        return schedule.timed(timestamps, since, share=may_look(timestamps) or not self.linear_time)


def each(
    law: Law, length: int, timestamps: Tensor | None, since: Tensor | float | None, like: Tensor
) -> Iterator[Step]:
    """Yield each of L steps; see `hippo.HiPPO.transitions`."""
    when = law.schedule(length, timestamps, since, like.device)
    if law.linear_time:
        yield from _legs(law, when.relative, since is None, like)
    elif timestamps is None and not law.measure.scale_invariant:
        yield from itertools.repeat(transitions.translated(*law, 1.0, like.dtype, like.device), length)
    elif when.still is None:
        yield from _dense(law, when, since is None, like)
    else:
        where = when.still.view(*when.still.shape, *[1] * (like.dim() - 1))
        for pause, step in zip(where, _dense(law, when, since is None, like), strict=True):
            yield _unless(pause, step)


def for_kernels(law: Law, length: int, timestamps: Tensor | None, like: Tensor) -> LegSSteps | LTIStep | None:
    """Return all steps in a form that `hippo.kernels.gated` knows; see `hippo.HiPPO.kernel_steps`."""
    if law.linear_time:
        if timestamps is None:  # dt/t = 1/k
            step = torch.arange(1, length, dtype=torch.float64, device=like.device).reciprocal().unsqueeze(-1)
        else:
            times = timestamps.detach().to(torch.float64).mT
            step = schedule.relative_steps(times.diff(dim=0), times[1:])
        step = step.to(like).expand(-1, len(like)).contiguous()
        return LegSSteps(step, transitions.alpha(law.discretization), law.order, law.power)
    if law.measure.scale_invariant or timestamps is not None:
        return None
    return _lti_step(law, like.dtype, like.device)


def _legs(law: Law, relative: Tensor, first: bool, like: Tensor) -> Iterator[Step]:
    """Yield the steps that cost O(N) under a generalized bilinear transform, from relative steps (L, 1) or (L, B)."""
    if first:
        relative = relative[1:]
        yield Filling(torch.eye(1, law.order, dtype=like.dtype, device=like.device)[0])
    relative = relative.view(*relative.shape, *[1] * (like.dim() - 2))
    alpha = transitions.alpha(law.discretization)
    yield from legs.legs_steps(law.order, relative, alpha, like.dtype, law.power)


def _dense(law: Law, when: Schedule, first: bool, like: Tensor) -> Iterator[Step]:
    """Yield the steps that are matrices and change with time."""
    gaps, times = when.gaps, when.times
    if gaps.dim() == 2 and like.dim() == 3:
        gaps, times = gaps.unsqueeze(-1), times.unsqueeze(-1)
    steps = schedule.relative_steps(gaps, times) if law.measure.scale_invariant else gaps
    if first:
        steps = steps[1:]
        yield Filling(transitions.constant_past(law.measure, law.order).to(like))
    if law.measure.scaled_power is not None:
        count = max(1, _NUMBERS // (steps[:1].numel() * law.order**2 or 1))
        for some in steps.split(count):
            yield from map(transitions.Transition, *transitions.held(law.order, some, law.power, like))
        return
    A, B = (v.to(like.device) for v in law.measure.dynamics(law.order))
    if law.measure.scale_invariant:
        yield from (transitions.scaled(A, B, law.discretization, step, like) for step in steps)
    elif gaps.dim() == 1:
        kept = functools.cache(lambda gap: transitions.translated(*law, gap, like.dtype, like.device))
        # On a GPU the host waits for these numbers, as it has for the answer that all samples share them. It must know
        # which are equal: a matrix of N = 64 takes 0.6 ms (bilinear) or 1.7 ms ("zoh"), and one for each of L steps at
        # once would take L·N² numbers.
        yield from map(kept, steps.tolist())
    else:
        yield from (transitions.discretized(A, B, law.discretization, gap, like) for gap in steps)


@constant(maxsize=4)
def _lti_step(law: Law, dtype: torch.dtype, device: torch.device) -> LTIStep:
    return LTIStep(*transitions.translated(*law, 1.0, dtype, device))


def _unless(pause: Tensor, step: Step) -> Step:
    """The step, but for samples for which no time passes."""
    return lambda c, f: torch.where(pause, c, step(c, f))
