"""Which implementation takes a signal through a memory, and how it is called.

Whether all steps share one matrix is decided here, not in `hippo.kernels.lti`: it follows from the measure and the
timestamps, which no kernel knows. What a tensor admits, the doors decide.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hippo import schedule, steps, transitions
from hippo.kernels import legs, lti, scaled
from hippo.steps import Law
from hippo.values import may_look

Form = Literal["recurrence", "scan", "convolution"]
_BLOCK = 64  # samples from which on blocks of them are worth it
_LARGEST = {dtype: torch.finfo(dtype).max ** 0.5 for dtype in (torch.float32, torch.float64)}  # beyond, sums overflow


class Route(NamedTuple):
    """Which implementation serves a call of a memory, and why.

    Attributes:
        name: "compiled loop", or "wavefront", which is compiled as well and faster; "GPU kernel"; "plain loop", in
            tensor operations; "matrix products", one a sample; "weighted sum", of all samples; "blocks of samples";
            "scan"; "convolution"; "first sample", which fills the memory and takes no step.
        reason: What decides.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Signal(NamedTuple):
    """A signal that is to be remembered, of shapes that go together, and the memory before it.

    Attributes:
        samples: (B, L) or (B, L, C).
        timestamps: (B, L), or None.
        since: Time of the sample before, a number or (B,); None if there is none.
        coefficients: (B, N) or (B, C, N), zeros where there is no sample before.
    """

    samples: Tensor
    timestamps: Tensor | None
    since: Tensor | float | None
    coefficients: Tensor


def choose(law: Law, signal: Signal, *, last: bool, form: Form) -> Route:
    """Return the route of a signal; see `hippo.HiPPO.route`."""
    samples, timestamps, since, c = signal
    if form not in ("recurrence", "scan", "convolution"):
        raise ValueError(f"unknown form {form!r}; choose recurrence, scan or convolution")
    if form != "recurrence":
        if law.measure.scale_invariant or timestamps is not None:
            raise ValueError(f"as a {form} there are memories of translated measures without timestamps only")
        return Route(form, "it is asked for")
    length = samples.shape[1]
    if length == 1 and since is None and (timestamps is not None or law.measure.scale_invariant):
        return Route("first sample", "it fills the memory")
    if law.linear_time:
        name, reason = legs.choose(samples, c)
        if name != "compiled loop" or not last or length == 1:
            return Route(name, reason)
        if timestamps is not None or isinstance(since, Tensor):
            return Route(name, "a step costs O(N), and samples have times of their own")
        if transitions.alpha(law.discretization) != 0.5:
            return Route(name, f"a step costs O(N), and the discretization is not bilinear but {law.discretization}")
        return Route("wavefront", "bilinear steps of O(N) without timestamps, and the last state alone")
    if law.measure.scaled_power is not None and last and length > 1:
        return Route("weighted sum", "exact steps, and the last state alone: each sample's share of it is known")
    if law.measure.scale_invariant:
        return Route("matrix products", f"each sample has its own matrix under {law.discretization}")
    if timestamps is not None:
        return Route("matrix products", "each gap between timestamps has its own matrix")
    if last and length >= max(_BLOCK, law.order):
        return Route("blocks of samples", "a translated measure without timestamps, and the last state alone")
    return Route("matrix products", "a translated measure without timestamps: one matrix, one product a sample")


def follow(route: Route, law: Law, signal: Signal, *, last: bool) -> Tensor:
    """Return the coefficients after every sample, (B, L, N) or (B, L, C, N), or after the last, without L.

    Raises:
        ValueError: If samples are not finite, or coefficients have no place in their precision; or timestamps are not
            finite, or decrease.
    """
    samples, _, _, c = signal
    if route.name != "wavefront":  # which is fast since nothing else looks at the samples before
        check_finite(samples)
    after = _advance(route, law, signal, last)
    if not may_look(after) or torch.isfinite(after if last else after[:, -1]).all():
        return after
    check_finite(samples)
    if not torch.isfinite(c).all():
        raise ValueError("state.coefficients must be finite; these have NaN or infinity, so begin with a new state")
    if (most := max(samples.abs().max(), c.abs().max())) < _LARGEST[samples.dtype]:
        return after  # the discretization is unstable
    # A memory is linear: what is too large for the sums on the way is made smaller, without rounding.
    smaller = signal._replace(samples=samples * 2.0**-64, coefficients=c * 2.0**-64)
    after = _advance(route, law, smaller, last) * 2.0**64
    if not torch.isfinite(after).all():
        raise ValueError(
            f"signal or state has values of up to {most.item():.2g}, and {samples.dtype} cannot hold their "
            "coefficients; make them smaller"
        )
    return after


def one_more(
    law: Law, f: Tensor, timestamps: Tensor | None, c: Tensor, since: Tensor | float
) -> tuple[Tensor, Tensor | float] | None:
    """Return the coefficients and the time after one more sample f (B,) or (B, C), with timestamps (B,) or None, by the
    route that `choose` names for it and an eighth of the time of `follow`; None where that is for `follow`: where the
    arguments need a closer look, or a step is more than an operation."""
    times = schedule.following(since, timestamps)
    if times is None or c.shape != (*f.shape, law.order) or (c.dtype, c.device) != (f.dtype, f.device):
        return None
    if f.numel() == 0 or (timestamps is not None and len(f) != 1):
        return None
    before, now = times
    if now == before or f.dtype not in _LARGEST:
        return None
    if linear := law.linear_time:
        relative, alpha = (now - before) / now, transitions.alpha(law.discretization)
        try:
            if f.dim() == 1:
                c = legs.step(c, f, relative, alpha, law.power)
            else:
                c = legs.step(c.flatten(0, -2), f.flatten(), relative, alpha, law.power).view_as(c)
        except OverflowError:  # the sample or the state was not finite, or is too large
            return None
    elif law.measure.scaled_power is not None:
        relative = torch.tensor((now - before) / now, dtype=torch.float64, device=c.device)
        c = transitions.held(law.order, relative, law.power, c)(c, f)
    elif not law.measure.scale_invariant:
        c = transitions.translated(*law, 1.0 if timestamps is None else now - before, c.dtype, c.device)(c, f)
    else:
        return None
    if not linear and may_look(c) and not math.isfinite(c.sum().item()):
        return None
    return c, now if timestamps is None else timestamps.clone()


def _advance(route: Route, law: Law, signal: Signal, last: bool) -> Tensor:
    samples, _, _, c = signal
    if route.name == "wavefront":
        return _by_wavefront(law, signal)
    if route.name in ("compiled loop", "GPU kernel", "plain loop"):
        return _by_legs(law, signal, last)
    if route.name == "weighted sum":
        return _by_sum(law, signal)
    by_channel = samples.movedim(1, -1)
    if route.name == "blocks of samples":
        return lti.last(transitions.blocks(*law, c.dtype, c.device), by_channel, c)
    if route.name in ("scan", "convolution"):
        A, B = transitions.translated(*law, 1.0, c.dtype, c.device)
        return (lti.scan if route.name == "scan" else lti.convolution)(A, B, by_channel, c).movedim(-2, 1)
    return _one_by_one(law, signal, last)


def check_finite(samples: Tensor) -> None:
    """Raise ValueError where samples are not finite, and the host may look."""
    if may_look(samples) and not torch.isfinite(samples).all():
        raise ValueError(
            f"signal must hold finite floating-point numbers; this one is {samples.dtype} with NaN or infinity, to be "
            "masked or filled in"
        )


def _by_wavefront(law: Law, signal: Signal) -> Tensor:
    samples, _, since, c = signal
    assert not isinstance(since, Tensor)  # `choose` sees to it
    f = samples.movedim(1, -1).flatten(0, -2)
    if since is None:
        c = _filled(law, samples[:, 0])
        f, since = f[:, 1:], 0.0
    return legs.remember(c.flatten(0, -2), f, since, law.power).view_as(c)


def _by_sum(law: Law, signal: Signal) -> Tensor:
    samples, timestamps, since, c = signal
    step = law.schedule(samples.shape[1], timestamps, since, c.device).relative
    x = samples.unsqueeze(-1) if samples.dim() == 2 else samples
    if since is None:
        c = _filled(law, samples[:, 0])
        x, step = x[:, 1:], step[1:]
    return scaled.remember(x, c.view(*x[:, 0].shape, law.order), step, law.power, alpha=None).view_as(c)


def _by_legs(law: Law, signal: Signal, last: bool) -> Tensor:
    samples, timestamps, since, c = signal
    batch, length, *channels = samples.shape
    step = law.schedule(length, timestamps, since, c.device).relative
    f = samples.movedim(1, -1).flatten(0, -2)
    if step.shape[1] > 1:
        step = step.repeat_interleave(len(f) // batch, dim=1)
    c, first = c.flatten(0, -2), []
    if since is None:
        c = _filled(law, f[:, 0])
        f, step = f[:, 1:], step[1:]
        first = [] if last else [c.unsqueeze(1)]
    if f.shape[1]:
        c = legs.sequence(c, f, step, transitions.alpha(law.discretization), every=not last, power=law.power)
    if last:
        return c.unflatten(0, (batch, *channels))
    rows = torch.cat([*first, c], dim=1) if f.shape[1] else first[0]
    return rows.unflatten(0, (batch, *channels)).movedim(-2, 1)


def _filled(law: Law, f: Tensor) -> Tensor:
    """Return the coefficients (..., N) of a memory of all the past after its first sample (...)."""
    return torch.nn.functional.pad(f.unsqueeze(-1), (0, law.order - 1))


def _one_by_one(law: Law, signal: Signal, last: bool) -> Tensor:
    samples, timestamps, since, c = signal
    rows = []
    for f, step in zip(samples.unbind(1), steps.each(law, samples.shape[1], timestamps, since, like=c), strict=True):
        c = step(c, f)
        if not last:
            rows.append(c)
    return c if last else torch.stack(rows, dim=1)
