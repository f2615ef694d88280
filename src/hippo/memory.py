"""Online memory: compress a signal, sample by sample, into N coefficients from which its past can be read back."""

import functools
import itertools
import math
import numbers
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hippo import measures, schedule, transitions
from hippo.constants import constant
from hippo.kernels import legs, lti
from hippo.kernels.common import gpus
from hippo.kernels.gated.steps import LegSSteps, LTIStep
from hippo.measures import LegS, Measure
from hippo.schedule import Schedule
from hippo.transitions import Filling, Transition

Form = Literal["recurrence", "scan", "convolution"]
Step = Callable[[Tensor, Tensor], Tensor]
_BLOCK = 64  # samples from which on blocks of them are worth it
_LARGE = {dtype: torch.finfo(dtype).max ** 0.5 for dtype in (torch.float32, torch.float64)}  # beyond it, sums overflow
_ROOM = 2.0**64  # by which what is too large is made smaller, without rounding


class State(NamedTuple):
    """What a memory carries from one chunk of a signal to the next.

    Attributes:
        coefficients: (B, N) or (B, C, N).
        time: Time of the latest sample: a number, or (B,) where each sample of the batch has its own timestamps.
    """

    coefficients: Tensor
    time: Tensor | float


class Route(NamedTuple):
    """Which implementation serves a call of a memory, and why.

    Attributes:
        name: "compiled loop", or "wavefront", which is compiled as well and faster; "GPU kernel"; "plain loop", in
            tensor operations; "matrix products", one a sample; "blocks of samples"; "scan"; "convolution"; "first
            sample", which fills the memory and takes no step.
        reason: What decides.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class HiPPO(nn.Module):
    """High-order polynomial projection of a signal's past, kept up to date online (arXiv 2008.07669).

    The memory holds no weights and no tables, and knows no maximum length. A step of LegS costs O(N), or O(N²) under
    "zoh", whose transitions gradients have to keep, L·N² numbers; one of another measure of all the past takes a matrix
    of its own each time, O(N³). One of a translated measure costs O(N²), with one
    transition for all steps, or one for each gap that occurs where the whole batch has the same timestamps; where each
    sample has its own, gradients keep B·L·N² numbers.

    On a CPU, where `hippo.kernels.compiled()`, steps of LegS under a generalized bilinear transform are compiled. They
    have gradients of any order; batched ones (`is_grads_batched`), and vectorised data, they have not. `route` says
    which implementation serves a call.

    **Time.** With timestamps, sample k stands for the interval (t_{k-1}, t_k], and the first one for all that was
    before: the memory starts as that of a constant. One that repeats the timestamp before it stands for no time at all
    and leaves the memory as it was. LegS depends on ratios of times only, hence multiplying all timestamps by a
    constant changes nothing; the other measures depend on differences only, hence adding one changes nothing. (Gaps of
    several windows are for "zoh": a bilinear transform rings.) Without timestamps, steps are 1 and a translated memory
    starts empty; LegS under a generalized bilinear transform has t_k = 0, 1, …, as in the paper: the first sample fills
    the memory and the k-th moves it by dt/t = 1/k.

    Args:
        measure: "legs", or a `Measure` with its parameters: LegT(length=200).
        order: Number of coefficients N ≥ 1.
        discretization: "bilinear", "euler", "backward_euler", "zoh" (exact for piecewise-constant input, but dense),
            or a number α ∈ [0, 1] for the generalized bilinear transform.

    Raises:
        ValueError: For an order below 1, or an unknown measure or discretization.
    """

    def __init__(
        self, measure: str | Measure = "legs", order: int = 64, discretization: str | float = "bilinear"
    ) -> None:
        super().__init__()
        if not isinstance(order, int) or order < 1:
            raise ValueError(f"order must be a whole number of at least 1, not {order}")
        if isinstance(discretization, str) and discretization not in transitions.NAMES:
            known = ", ".join(transitions.NAMES)
            raise ValueError(f"unknown discretization {discretization!r}; choose from {known}, or an α")
        if not isinstance(discretization, str) and not 0 <= discretization <= 1:
            raise ValueError(f"the α of a discretization lies between 0 and 1; {discretization} does not")
        self.measure = measures.by_name(measure) if isinstance(measure, str) else measure
        if not isinstance(self.measure, Measure):
            raise ValueError(f"measure must be a name or a Measure such as LegT(length=200), not {measure}")
        self.order = order
        self.discretization = discretization

    def forward(
        self,
        signal: Tensor,
        timestamps: Tensor | None = None,
        *,
        state: State | None = None,
        form: Form = "recurrence",
    ) -> tuple[Tensor, State]:
        """Remember a whole signal, or the next chunk of one.

        Args:
            signal: (B, L) or (B, L, C); each channel has a memory of its own. One in half precision is remembered in
                float32, since a sum of many samples is not for half precision.
            timestamps: (B, L), non-negative and non-decreasing, going on from `state.time`.
            state: The state after the previous chunk; None at the beginning.
            form: How to compute it. A translated measure without timestamps may be had as a "convolution" (FFT) or an
                associative "scan" as well, with equal results (see `hippo.kernels.lti`).

        Returns:
            The coefficients after every sample, (B, L, N) or (B, L, C, N), and the state after the last.

        Raises:
            ValueError: If shapes disagree, the signal is empty, not floating-point or not finite, or timestamps
                decrease, are negative or not finite, or the form is not one that this memory has.
        """
        signal = _accumulable(signal)
        since, c = self._begin(signal, timestamps, state)
        route = self._route(signal, timestamps, state, last=False, form=form)
        now = self._end(signal, timestamps, since)

        def advance(signal: Tensor, c: Tensor) -> Tensor:
            if route.name in ("compiled loop", "GPU kernel", "plain loop"):
                return self._legs(signal, timestamps, since, c, every=True)
            if route.name in ("scan", "convolution"):
                A, B = self._regular(1.0, c)
                how = lti.scan if form == "scan" else lti.convolution
                return how(A, B, signal.movedim(1, -1), c).movedim(-2, 1)
            return torch.stack(list(self._walk(signal, timestamps, since, c)), dim=1)

        outputs = _with_room(advance, signal, c)
        return outputs, State(outputs[:, -1].clone(), now)

    def remember(self, signal: Tensor, timestamps: Tensor | None = None, *, state: State | None = None) -> State:
        """Remember a whole signal, or the next chunk of one, and return the state after it: what `forward` has at the
        end, without what it has on the way.

        Without timestamps this takes millions of steps a second: bilinear LegS where `hippo.kernels.compiled()`, its
        gradients without memory, and translated measures in blocks of samples. Arguments and errors are those of
        `forward`.
        """
        signal = _accumulable(signal)
        since, c = self._begin(signal, timestamps, state, finite=False)
        route = self._route(signal, timestamps, state, last=True, form="recurrence")
        if route.name != "wavefront":
            _check_finite(signal)
        now = self._end(signal, timestamps, since)

        def advance(signal: Tensor, c: Tensor) -> Tensor:
            if route.name == "wavefront":
                c = self._wavefront(signal, since, c)
            elif route.name in ("compiled loop", "GPU kernel", "plain loop"):
                c = self._legs(signal, timestamps, since, c, every=False)
            elif route.name == "blocks of samples":
                blocks = transitions.blocks(self.measure, self.order, self.discretization, c.dtype, c.device)
                c = lti.last(blocks, signal.movedim(1, -1), c)
            else:
                c = deque(self._walk(signal, timestamps, since, c), maxlen=1).pop()
            return c.unsqueeze(1)

        return State(_with_room(advance, signal, c).squeeze(1), now)

    def step(self, f: Tensor, timestamps: Tensor | None = None, *, state: State | None = None) -> State:
        """Remember one sample f of shape (B,) or (B, C), with timestamps (B,) where there are any.

        This takes some 10 microseconds: without gradients, and with timestamps for a batch of one only. The numbers are
        those of `forward`, and so are the errors.
        """
        _check_tensor("f", f)
        if f.dim() not in (1, 2):
            raise ValueError(f"f must be one sample of each signal, (B,) or (B, C), not {tuple(f.shape)}")
        if timestamps is not None or state is not None:
            _check_kinds("(B,)", timestamps, state)
        c = None if state is None else self._next(f, state, timestamps)
        if state is not None and c is not None:
            return State(c, state.time + 1 if timestamps is None else timestamps)
        timestamps = None if timestamps is None else timestamps.unsqueeze(-1)
        return self.remember(f.unsqueeze(1), timestamps, state=state)

    def route(
        self,
        signal: Tensor,
        timestamps: Tensor | None = None,
        *,
        state: State | None = None,
        last: bool = False,
        form: Form = "recurrence",
    ) -> Route:
        """Return which implementation serves a call with these arguments, and why: print it to see why a call is slow.

        Args:
            signal: (B, L) or (B, L, C).
            timestamps: (B, L), or None.
            state: The state after the previous chunk, or None.
            last: Whether the coefficients after the last sample alone are wanted, as by `remember` and `step`.
            form: As `forward` has it.

        Raises:
            ValueError: As `forward`, but for values of the signal, which are not looked at.
        """
        signal = _accumulable(signal)
        self._begin(signal, timestamps, state, finite=False)
        return self._route(signal, timestamps, state, last=last, form=form)

    def _route(
        self, signal: Tensor, timestamps: Tensor | None, state: State | None, *, last: bool, form: Form
    ) -> Route:
        if form not in ("recurrence", "scan", "convolution"):
            raise ValueError(f"unknown form {form!r}; choose recurrence, scan or convolution")
        if form != "recurrence":
            if self.measure.scale_invariant or timestamps is not None:
                raise ValueError(f"as a {form} there are memories of translated measures without timestamps only")
            return Route(form, "it is asked for")
        if signal.shape[1] == 1 and state is None and (timestamps is not None or self.measure.scale_invariant):
            return Route("first sample", "it fills the memory")
        if self._linear_time:
            if gpus.serves(signal, *([] if state is None else [state.coefficients])):
                return Route("GPU kernel", "LegS: one kernel for the whole signal")
            refusal = legs.refusal(signal) if state is None else legs.refusal(signal, state.coefficients)
            if refusal:
                return Route("plain loop", refusal)
            if not last or signal.shape[1] == 1:
                return Route("compiled loop", "LegS, and one sample, or a state for every sample")
            if timestamps is not None or (state is not None and isinstance(state.time, Tensor)):
                return Route("compiled loop", "LegS, and samples have times of their own")
            if transitions.alpha(self.discretization) != 0.5:
                return Route("compiled loop", f"LegS, and the discretization is not bilinear but {self.discretization}")
            return Route("wavefront", "bilinear LegS without timestamps, and the last state alone")
        if self.measure.scale_invariant:
            return Route("matrix products", f"each sample has its own matrix under {self.discretization}")
        if timestamps is not None:
            return Route("matrix products", "each gap between timestamps has its own matrix")
        if last and signal.shape[1] >= max(_BLOCK, self.order):
            return Route("blocks of samples", "a translated measure without timestamps, and the last state alone")
        return Route("matrix products", "a translated measure without timestamps: one matrix, one product a sample")

    @property
    def _linear_time(self) -> bool:
        """Whether a step is that of `hippo.kernels.legs`, which takes O(N)."""
        return isinstance(self.measure, LegS) and self.discretization != "zoh"

    def _next(self, f: Tensor, state: State, timestamps: Tensor | None) -> Tensor | None:
        """Return the coefficients after one more sample, or None where that is for `remember`: where the arguments need
        a closer look, a graph of the gradient, or another implementation."""
        c, since = state
        if timestamps is not None:
            if timestamps.shape != (1,) or len(f) != 1 or (isinstance(since, Tensor) and since.shape != (1,)):
                return None
            since, now = float(since), float(timestamps)
        elif isinstance(since, Tensor):
            return None
        else:
            now = since + 1
        if (
            not 0 <= since <= now < math.inf
            or c.shape != (*f.shape, self.order)
            or c.dtype != f.dtype
            or not (abs(f.item()) < _LARGE[f.dtype] if f.numel() == 1 else (f.abs() < _LARGE[f.dtype]).all())
        ):
            return None
        if not self.measure.scale_invariant:
            gap = 1.0 if timestamps is None else now - since
            return self._regular(gap, c)(c, f) if gap > 0 and c.device == f.device else None
        graph = torch.is_grad_enabled() and (c.requires_grad or f.requires_grad)
        if graph or not self._linear_time or legs.refusal(c, f):
            return None
        relative = (now - since) / now if now > since else 0.0
        alpha = transitions.alpha(self.discretization)
        if f.dim() == 1:
            return legs.step(c, f, relative, alpha)
        return legs.step(c.flatten(0, 1), f.flatten(), relative, alpha).view_as(c)

    def _wavefront(self, signal: Tensor, since: Tensor | float | None, c: Tensor) -> Tensor:
        """Return the coefficients after the last sample, of samples 1 apart."""
        assert not isinstance(since, Tensor)  # `route` sees to it
        samples = signal.movedim(1, -1).flatten(0, -2)
        if since is None:  # the first sample fills the memory
            c = self._filled(signal[:, 0])
            samples, since = samples[:, 1:], 0.0
        return legs.remember(c.flatten(0, -2), samples, since).view_as(c)

    def _walk(
        self, signal: Tensor, timestamps: Tensor | None, since: Tensor | float | None, c: Tensor
    ) -> Iterator[Tensor]:
        """Yield the coefficients after each sample, one step at a time."""
        steps = self.transitions(signal.shape[1], timestamps, since, like=c)
        for f, step in zip(signal.unbind(1), steps, strict=True):
            c = step(c, f)
            yield c

    def _legs(
        self, signal: Tensor, timestamps: Tensor | None, since: Tensor | float | None, c: Tensor, every: bool
    ) -> Tensor:
        """Return the coefficients after every sample, (B, L, N) or (B, L, C, N), or after the last."""
        batch, length, *channels = signal.shape
        step = self._schedule(length, timestamps, since, c.device).relative
        f = signal.movedim(1, -1).flatten(0, -2)
        if step.shape[1] > 1:
            step = step.repeat_interleave(len(f) // batch, dim=1)
        c, first = c.flatten(0, -2), []
        if since is None:
            c = self._filled(f[:, 0])
            f, step = f[:, 1:], step[1:]
            first = [c.unsqueeze(1)] if every else []
        if f.shape[1]:
            c = legs.sequence(c, f, step, transitions.alpha(self.discretization), every)
        if not every:
            return c.unflatten(0, (batch, *channels))
        rows = torch.cat([*first, c], dim=1) if f.shape[1] else first[0]
        return rows.unflatten(0, (batch, *channels)).movedim(-2, 1)

    def _filled(self, f: Tensor) -> Tensor:
        """Return LegS's coefficients (..., N) after its first sample (...)."""
        return torch.nn.functional.pad(f.unsqueeze(-1), (0, self.order - 1))

    def _begin(
        self, signal: Tensor, timestamps: Tensor | None, state: State | None, finite: bool = True
    ) -> tuple[Tensor | float | None, Tensor]:
        """Check the arguments, and return the time of the latest sample and the coefficients before the first."""
        if signal.dim() not in (2, 3) or 0 in signal.shape:
            raise ValueError(f"signal must be (B, L) or (B, L, C) with B, L, C ≥ 1, not {tuple(signal.shape)}")
        if not signal.is_floating_point():
            raise ValueError(f"signal must hold finite floating-point numbers; this one is {signal.dtype}")
        if finite:
            _check_finite(signal)
        _check_kinds("(B, L)", timestamps, state)
        if timestamps is not None and timestamps.shape != signal.shape[:2]:
            raise ValueError(
                f"timestamps {tuple(timestamps.shape)} do not match the signal's {tuple(signal.shape[:2])}"
            )
        if timestamps is not None:
            self._check_clock(timestamps, first=state is None)
        since = None if state is None else state.time
        shape = (signal.shape[0], *signal.shape[2:], self.order)
        if state is not None and state.coefficients.shape != shape:
            raise ValueError(f"state holds coefficients {tuple(state.coefficients.shape)}; this signal needs {shape}")
        if state is not None and (state.coefficients.dtype, state.coefficients.device) != (signal.dtype, signal.device):
            raise ValueError(
                f"state is {state.coefficients.dtype} on {state.coefficients.device}, and the signal {signal.dtype} on "
                f"{signal.device}; convert one"
            )
        if isinstance(since, Tensor) and since.shape != signal.shape[:1]:
            raise ValueError(f"state.time must be a number or ({len(signal)},), not {tuple(since.shape)}")
        if since is not None and not isinstance(since, Tensor) and not 0 <= since < math.inf:
            raise ValueError(f"state.time must be finite and at least 0, not {since}")
        return since, signal.new_zeros(shape) if state is None else state.coefficients

    def _check_clock(self, timestamps: Tensor, first: bool) -> None:
        """Refuse a clock that began long before the signal, as that of Unix did, where it would spoil the memory."""
        if torch.compiler.is_exporting():
            return
        begin, end = timestamps[:, 0], timestamps[:, -1]
        span, intervals = end - begin, timestamps.shape[1] - 1
        remedy = "let time begin with the signal: timestamps - timestamps[:, :1], in float64"
        if timestamps.is_floating_point():
            resolution = torch.finfo(timestamps.dtype).eps * end
            if ((span > 0) & (resolution * intervals > 0.1 * span)).any():
                raise ValueError(
                    f"timestamps up to {end.max().item():g} in {timestamps.dtype} are too coarse for the gaps between "
                    f"them; {remedy}"
                )
        if first and self.measure.scale_invariant and (begin > torch.where(span > 0, 1000 * span, 1e8)).any():
            raise ValueError(
                f"timestamps from {begin.max().item():g} on: a memory of all the past begins at time 0, so nearly all "
                f"of it would be the first sample; {remedy}"
            )

    def _end(self, signal: Tensor, timestamps: Tensor | None, since: Tensor | float | None) -> Tensor | float:
        """Return the time of the last sample."""
        if timestamps is not None:
            return timestamps[:, -1]
        return (self._origin - 1 if since is None else since) + signal.shape[1]

    def reconstruct(self, memory: Tensor | State, times: Tensor, *, now: Tensor | float | None = None) -> Tensor:
        """Read the remembered signal back.

        Args:
            memory: Coefficients (..., N); or a state, whose time is then `now`, if that is not given.
            times: When to read, (M,), or (..., M) with a time axis for each memory. Without `now`, fractions of the
                window: 0 is its beginning and 1 the present. With it, times within the window at `now`: for LegS
                [0, now].
            now: Time of the coefficients: a number, or (...) where each has its own.

        Returns:
            The signal's approximation (..., M).

        Raises:
            ValueError: If the coefficients are not N, `now` is not one for each memory, a time lies outside the window,
                where they say nothing, or fractions of a window without a beginning are asked for.
        """
        if isinstance(memory, State):
            memory, now = memory.coefficients, memory.time if now is None else now
        _check_tensor("memory", memory)
        _check_tensor("times", times)
        schedule.check_real("times", times)
        if now is not None:
            _check_time("now", now)
        if memory.shape[-1] != self.order or not memory.is_floating_point():
            raise ValueError(
                f"coefficients must be (..., {self.order}), floating-point, not {tuple(memory.shape)} of {memory.dtype}"
            )
        times = times.to(torch.float64)
        if now is None:
            oldest, now = self.measure.window(1.0)
            if oldest == -math.inf:
                raise ValueError(
                    f"the window of {type(self.measure).__name__} has no beginning, so times cannot be fractions of "
                    "it; give times, and now=…, the time of the coefficients"
                )
            times = torch.lerp(torch.tensor(oldest, dtype=times.dtype), torch.tensor(now, dtype=times.dtype), times)
        if isinstance(now, Tensor):
            if now.shape != memory.shape[: now.dim()] or now.dim() == memory.dim():
                raise ValueError(
                    f"now must be a number, or one for each memory of {tuple(memory.shape)}, not {tuple(now.shape)}"
                )
            now = now.to(torch.float64)
            now = now.view(*now.shape, *[1] * (memory.dim() - now.dim()))
        oldest, newest = self.measure.window(now)  # type: ignore[arg-type]
        inside = (times >= oldest) & (times <= newest) & (oldest < newest)
        if not inside.all():
            raise ValueError(
                f"times must lie in the memory's window, [{oldest}, {newest}] where now is {now}; these span "
                f"[{times.min().item()}, {times.max().item()}]"
            )
        basis = self.measure.basis(self.order, times.expand(inside.shape), now)  # type: ignore[arg-type]
        return torch.einsum("...mn,...n->...m", basis.to(memory), memory)

    def transitions(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, like: Tensor
    ) -> Iterator[Step]:
        """Yield the memory's step for each of `length` samples: a function (c, f) ↦ new c, of (..., N) and (...).

        Args:
            length: Number of steps L.
            timestamps: (B, L), or None.
            since: Time of the latest sample remembered so far, as in `State`; None if there is none.
            like: Coefficients (B, N) or (B, C, N), for shape, dtype and device.
        """
        when = self._schedule(length, timestamps, since, like.device)
        if self._linear_time:
            steps = self._legs_steps(when.relative, since is None, like)
        elif timestamps is None and not self.measure.scale_invariant:
            steps = itertools.repeat(self._regular(1.0, like), length)
        else:
            steps = self._dense_steps(when, since is None, like)
            if when.still is not None:
                where = when.still.view(*when.still.shape, *[1] * (like.dim() - 1))
                steps = (_unless(pause, step) for pause, step in zip(where, steps, strict=True))
        yield from steps

    def transition(self, like: Tensor) -> Transition | None:
        """Return the step that all samples share where none has a timestamp; None where each is another, as of LegS.

        Args:
            like: For dtype and device.
        """
        return None if self.measure.scale_invariant else self._regular(1.0, like)

    def kernel_steps(self, length: int, timestamps: Tensor | None, like: Tensor) -> LegSSteps | LTIStep | None:
        """Return the steps of a whole sequence in a form that `hippo.kernels.gated` knows; None where there is none.

        On a GPU the host waits for nothing: that timestamps are valid has been checked, by `check_timestamps`.

        Args:
            length: Number of steps L.
            timestamps: (B, L), or None.
            like: (B, ...), for dtype and device.
        """
        if self._linear_time:
            if timestamps is None:  # dt/t = 1/k
                step = torch.arange(1, length, dtype=torch.float64, device=like.device).reciprocal().unsqueeze(-1)
            else:
                times = timestamps.detach().to(torch.float64).mT
                step = schedule.relative_steps(times.diff(dim=0), times[1:])
            step = step.to(like).expand(-1, len(like)).contiguous()
            return LegSSteps(step, transitions.alpha(self.discretization), self.order)
        if self.measure.scale_invariant or timestamps is not None:
            return None
        return _lti_step(self.measure, self.order, self.discretization, like.dtype, like.device)

    def _schedule(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, device: torch.device
    ) -> Schedule:
        if timestamps is None:
            return schedule.regular(length, since, self._origin, device)
        return schedule.timed(timestamps, since)

    def _legs_steps(self, relative: Tensor, first: bool, like: Tensor) -> Iterator[Step]:
        """Yield LegS's steps under a generalized bilinear transform, from relative steps (L, 1) or (L, B)."""
        if first:
            relative = relative[1:]
            yield Filling(torch.eye(1, self.order, dtype=like.dtype, device=like.device)[0])
        relative = relative.view(*relative.shape, *[1] * (like.dim() - 2))
        yield from legs.legs_steps(self.order, relative, transitions.alpha(self.discretization), like.dtype)

    def _dense_steps(self, when: Schedule, first: bool, like: Tensor) -> Iterator[Step]:
        """Yield the steps that are matrices and change with time."""
        gaps, times = when.gaps, when.times
        if gaps.dim() == 2 and like.dim() == 3:
            gaps, times = gaps.unsqueeze(-1), times.unsqueeze(-1)
        if self.measure.scale_invariant:
            relative = schedule.relative_steps(gaps, times)
            if first:
                relative = relative[1:]
                legs = isinstance(self.measure, LegS)  # whose first polynomial is 1
                past = torch.eye(1, self.order)[0] if legs else transitions.constant_past(self.measure, self.order)
                yield Filling(past.to(like))
            if isinstance(self.measure, LegS):
                yield from (transitions.dilation(self.order, step, like.dtype) for step in relative)
            else:
                A, B = (v.to(like.device) for v in self.measure.dynamics(self.order))
                yield from (transitions.scaled(A, B, self.discretization, step, like) for step in relative)
            return
        if first:
            gaps = gaps[1:]
            yield Filling(transitions.constant_past(self.measure, self.order).to(like))
        if gaps.dim() == 1:
            regular = functools.cache(lambda gap: self._regular(gap, like))
            yield from (regular(gap) for gap in gaps.tolist())
        else:
            A, B = (v.to(like.device) for v in self.measure.dynamics(self.order))
            yield from (transitions.discretized(A, B, self.discretization, gap, like) for gap in gaps)

    def extra_repr(self) -> str:
        return f"{self.measure}, order={self.order}, discretization={self.discretization!r}"

    @property
    def _origin(self) -> int:
        """Time of the first sample of a signal without timestamps."""
        return 0 if self.measure.scale_invariant and self.discretization != "zoh" else 1

    def _regular(self, gap: float, like: Tensor) -> Transition:
        """Return a translated measure's step over a gap."""
        return transitions.translated(self.measure, self.order, self.discretization, gap, like.dtype, like.device)


@constant(maxsize=4)
def _lti_step(
    measure: Measure, order: int, discretization: str | float, dtype: torch.dtype, device: torch.device
) -> LTIStep:
    return LTIStep(*transitions.translated(measure, order, discretization, 1.0, dtype, device))


torch.serialization.add_safe_globals([State])  # for torch.load(…, weights_only=True)


def _unless(pause: Tensor, step: Step) -> Step:
    """The step, but for samples for which no time passes."""
    return lambda c, f: torch.where(pause, c, step(c, f))


def _check_tensor(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} must be a tensor, not {type(value).__name__}; torch.as_tensor({name}) makes one of an array"
        )


def _check_kinds(shape: str, timestamps: Tensor | None, state: State | None) -> None:
    """Refuse a state in the place of timestamps, and the other way round."""
    if timestamps is not None and not isinstance(timestamps, Tensor):
        hint = "; pass a state by its name, state=…" if isinstance(timestamps, State) else ""
        raise ValueError(f"timestamps must be a tensor {shape}, not {type(timestamps).__name__}{hint}")
    if timestamps is not None:
        schedule.check_real("timestamps", timestamps)
    if state is not None and not isinstance(state, State):
        raise ValueError(
            f"state must be the State that an earlier call returned, not {type(state).__name__}; of coefficients alone "
            "State(coefficients, time) makes one"
        )
    if state is not None:
        _check_tensor("state.coefficients", state.coefficients)
        _check_time("state.time", state.time)


def _check_time(name: str, time: Tensor | float) -> None:
    if isinstance(time, Tensor):
        schedule.check_real(name, time)
    elif not isinstance(time, numbers.Real):
        raise ValueError(f"{name} must be a real number or a tensor of them, not {type(time).__name__}")


def _accumulable(signal: Tensor) -> Tensor:
    """Return a signal in a precision in which many samples can be added up. Raises ValueError if it is no tensor."""
    _check_tensor("signal", signal)
    return signal.float() if signal.dtype in (torch.float16, torch.bfloat16) else signal


def _with_room(advance: Callable[[Tensor, Tensor], Tensor], signal: Tensor, c: Tensor) -> Tensor:
    """Return what `advance` makes of a signal and of the coefficients before it, (B, L, …, N), of which the last ones
    are not finite wherever some are not: it is linear, so a signal too large for the sums on the way is made smaller.

    Raises:
        ValueError: If the signal is not finite, or the coefficients have no place in its precision.
    """
    after = advance(signal, c)
    if torch.compiler.is_exporting() or torch.isfinite(after[:, -1]).all():
        return after
    _check_finite(signal)  # of a wavefront, which stays fast since nothing else looks at its samples
    if max(signal.abs().max(), c.abs().max()) < _LARGE[signal.dtype]:
        return after  # the discretization is unstable
    after = _ROOM * advance(signal / _ROOM, c / _ROOM)
    if not torch.isfinite(after).all():
        raise ValueError(
            f"signal has values of up to {signal.abs().max().item():.2g}, and coefficients that {signal.dtype} cannot "
            "hold; make it smaller"
        )
    return after


def _check_finite(signal: Tensor) -> None:
    if not torch.compiler.is_exporting() and not torch.isfinite(signal).all():
        raise ValueError(
            f"signal must hold finite floating-point numbers; this one is {signal.dtype} with NaN or infinity, to be "
            "masked or filled in"
        )
