"""Online memory: compress a signal, sample by sample, into N coefficients from which its past can be read back."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hippo import discretize, measures
from hippo.kernels import lti
from hippo.kernels.common import compile as jit
from hippo.kernels.gated.steps import LegSSteps, LTIStep
from hippo.kernels.legs import cpu as sweep
from hippo.kernels.legs import stream
from hippo.kernels.legs.naive import Transition, legs_dilation, legs_transition
from hippo.measures import Measure

ALPHA = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}
Step = Callable[[Tensor, Tensor], Tensor]
_CHUNK = 64  # steps whose transitions are computed together: enough to amortise the calls, little enough to hold


class State(NamedTuple):
    """What a memory carries from one chunk of a signal to the next.

    Attributes:
        coefficients: (B, N) or (B, C, N).
        time: Time of the latest sample: a number, or (B,) where each sample of the batch has its own timestamps.
    """

    coefficients: Tensor
    time: Tensor | float


class HiPPO(nn.Module):
    """High-order polynomial projection of a signal's past, kept up to date online (arXiv 2008.07669).

    The memory holds no weights and no tables, and knows no maximum length. A step of LegS costs O(N), or O(N²) under
    "zoh", whose transitions gradients have to keep, L·N² numbers. One of a translated measure costs O(N²), with one
    transition for all steps, or one for each gap that occurs where the whole batch has the same timestamps; where each
    sample has its own, gradients keep B·L·N² numbers.

    On a CPU, where `hippo.kernels.compiled()`, steps of LegS under a generalized bilinear transform are compiled. They
    have gradients of any order; batched ones (`is_grads_batched`), and vectorised data, they have not.

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
        if isinstance(discretization, str) and discretization not in (*ALPHA, "zoh"):
            raise ValueError(f"unknown discretization {discretization!r}; choose from {', '.join(ALPHA)}, zoh, or an α")
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
        state: State | None = None,
        form: Literal["recurrence", "scan", "convolution"] = "recurrence",
    ) -> tuple[Tensor, State]:
        """Remember a whole signal, or the next chunk of one.

        Args:
            signal: (B, L) or (B, L, C); each channel has a memory of its own.
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
        since, c = self._begin(signal, timestamps, state)
        if form not in ("recurrence", "scan", "convolution"):
            raise ValueError(f"unknown form {form!r}; choose recurrence, scan or convolution")
        if form != "recurrence" and (self.measure.scale_invariant or timestamps is not None):
            raise ValueError(f"as a {form} there are memories of translated measures without timestamps only")
        now = self._end(signal, timestamps, since)
        if form == "recurrence" and self._swept(c):
            outputs = self._sequence(signal, timestamps, since, c, every=True)
            return outputs, State(outputs[:, -1].clone(), now)
        if form != "recurrence":
            A, B = (v.to(c) for v in _regular_step(self.measure, self.order, self.discretization, 1.0))
            outputs = (lti.scan if form == "scan" else lti.convolution)(A, B, signal.movedim(1, -1), c).movedim(-2, 1)
            return outputs, State(outputs[:, -1].clone(), now)
        outputs = []
        transitions = self.transitions(signal.shape[1], timestamps, since, like=c)
        for f, transition in zip(signal.unbind(1), transitions, strict=True):
            c = transition(c, f)
            outputs.append(c)
        return torch.stack(outputs, dim=1), State(c, now)

    def remember(self, signal: Tensor, timestamps: Tensor | None = None, state: State | None = None) -> State:
        """Remember a whole signal, or the next chunk of one, and return the state after it: what `forward` has at the
        end, without what it has on the way.

        Without timestamps this takes millions of steps a second: bilinear LegS where `hippo.kernels.compiled()`, its
        gradients without memory, and translated measures in blocks of samples. Arguments and errors are those of
        `forward`.
        """
        since, c = self._begin(signal, timestamps, state, finite=False)
        now = self._end(signal, timestamps, since)
        bilinear = self.measure.scale_invariant and self.discretization in ("bilinear", 0.5)
        if bilinear and timestamps is None and not isinstance(since, Tensor) and jit.serves(signal) and jit.serves(c):
            samples = signal.movedim(1, -1).flatten(0, -2)
            if since is None:  # the first sample fills the memory
                c = torch.nn.functional.pad(signal[:, 0].unsqueeze(-1), (0, self.order - 1))
                samples, since = samples[:, 1:], 0.0
            c = stream.remember(c.flatten(0, -2), samples, since).view_as(c)
            if not torch.isfinite(c).all():  # what is not finite stays in the mean of all samples, so none is looked at
                _check_finite(signal)
            return State(c, now)
        _check_finite(signal)
        if not self.measure.scale_invariant and timestamps is None and signal.shape[1] >= max(_CHUNK, self.order):
            blocks = _blocks(self.measure, self.order, self.discretization, c.dtype, c.device)
            return State(lti.last(blocks, signal.movedim(1, -1), c), now)
        if self._swept(c):
            return State(self._sequence(signal, timestamps, since, c, every=False), now)
        transitions = self.transitions(signal.shape[1], timestamps, since, like=c)
        for f, transition in zip(signal.unbind(1), transitions, strict=True):
            c = transition(c, f)
        return State(c, now)

    @property
    def _sweeps(self) -> bool:
        """Whether a step is one sweep over the orders."""
        return self.measure.scale_invariant and self.discretization != "zoh"

    def _swept(self, c: Tensor) -> bool:
        """Return whether the steps of coefficients like c are those of `hippo.kernels.legs.cpu`."""
        return self._sweeps and jit.serves(c)

    def _relative_steps(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, device: torch.device
    ) -> Tensor:
        """Return LegS's steps dt/t, (L, 1) where all samples share them and (L, B) where not, in float64."""
        gaps, times, still = self._schedule(length, timestamps, since, device)
        relative = _relative(gaps, times)
        relative = relative if relative.dim() == 2 else relative.unsqueeze(-1)
        return relative if still is None else torch.where(still, 0.0, relative)

    def _sequence(
        self, signal: Tensor, timestamps: Tensor | None, since: Tensor | float | None, c: Tensor, every: bool
    ) -> Tensor:
        """Return the coefficients after every sample, (B, L, N) or (B, L, C, N), or after the last."""
        batch, length, *channels = signal.shape
        step = self._relative_steps(length, timestamps, since, c.device).expand(length, batch)
        f = signal.movedim(1, -1).flatten(0, -2)
        step = step.repeat_interleave(len(f) // batch, dim=1)
        c, first = c.flatten(0, -2), []
        if since is None:  # the first sample fills the memory
            c = torch.nn.functional.pad(f[:, :1], (0, self.order - 1))
            f, step = f[:, 1:], step[1:]
            first = [c.unsqueeze(1)] if every else []
        if f.shape[1]:
            c = sweep.sequence(c, f, step, _alpha(self.discretization), every)
        if not every:
            return c.unflatten(0, (batch, *channels))
        rows = torch.cat([*first, c], dim=1) if f.shape[1] else first[0]
        return rows.unflatten(0, (batch, *channels)).movedim(-2, 1)

    def _begin(
        self, signal: Tensor, timestamps: Tensor | None, state: State | None, finite: bool = True
    ) -> tuple[Tensor | float | None, Tensor]:
        """Check what was given, and return the time of the latest sample and the coefficients before the first."""
        if signal.dim() not in (2, 3) or 0 in signal.shape:
            raise ValueError(f"signal must be (B, L) or (B, L, C) with B, L, C ≥ 1, not {tuple(signal.shape)}")
        if not signal.is_floating_point():
            raise ValueError(f"signal must hold finite floating-point numbers; this one is {signal.dtype}")
        if finite:
            _check_finite(signal)
        if timestamps is not None and timestamps.shape != signal.shape[:2]:
            raise ValueError(
                f"timestamps {tuple(timestamps.shape)} do not match the signal's {tuple(signal.shape[:2])}"
            )
        since = None if state is None else state.time
        shape = (signal.shape[0], *signal.shape[2:], self.order)
        if state is not None and state.coefficients.shape != shape:
            raise ValueError(f"state holds coefficients {tuple(state.coefficients.shape)}; this signal needs {shape}")
        if state is not None and (state.coefficients.dtype, state.coefficients.device) != (signal.dtype, signal.device):
            raise ValueError(
                f"state is {state.coefficients.dtype} on {state.coefficients.device}, and the signal {signal.dtype} on "
                f"{signal.device}; convert one"
            )
        if since is not None and not isinstance(since, Tensor) and not 0 <= since < math.inf:
            raise ValueError(f"state.time must be finite and at least 0, not {since}")
        return since, signal.new_zeros(shape) if state is None else state.coefficients

    def _end(self, signal: Tensor, timestamps: Tensor | None, since: Tensor | float | None) -> Tensor | float:
        """Return the time of the last sample."""
        if timestamps is not None:
            return timestamps[:, -1]
        return (self._origin - 1 if since is None else since) + signal.shape[1]

    def step(self, f: Tensor, state: State | None = None, timestamps: Tensor | None = None) -> State:
        """Remember one sample f of shape (B,) or (B, C), with timestamps (B,) where there are any."""
        timestamps = None if timestamps is None else timestamps.unsqueeze(1)
        return self.remember(f.unsqueeze(1), timestamps, state)

    def reconstruct(self, coefficients: Tensor, times: Tensor, now: float = 1.0) -> Tensor:
        """Read the remembered signal back.

        Args:
            coefficients: (..., N).
            times: When to read, (M,), within the measure's window at `now`: for LegS [0, now], so that with the
                default `now` times are fractions of the past, 0 its beginning and 1 the present.
            now: Time of the coefficients.

        Returns:
            The signal's approximation (..., M).

        Raises:
            ValueError: If the coefficients are not N, or a time lies outside the window, where they say nothing.
        """
        if coefficients.shape[-1] != self.order:
            raise ValueError(f"coefficients must be (..., {self.order}), not {tuple(coefficients.shape)}")
        oldest, newest = self.measure.window(now)
        if times.numel() and not (oldest < newest and oldest <= times.min() and times.max() <= newest):
            raise ValueError(f"times must lie in the memory's window [{oldest}, {newest}]; these span "
                             f"[{times.min().item()}, {times.max().item()}]")  # fmt: skip
        basis = self.measure.basis(self.order, times.to(torch.float64), now)
        return coefficients @ basis.to(coefficients).mT

    def transitions(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, like: Tensor
    ) -> Iterator[Step]:
        """Yield the memory's step for each of `length` samples: a function (c, f) ↦ new c, of (..., N) and (...).

        Steps are computed ahead of the loop that uses them, without a look at the data, a few dozen at a time.

        Args:
            length: Number of steps L.
            timestamps: (B, L), or None.
            since: Time of the latest sample remembered so far, as in `State`; None if there is none.
            like: Coefficients (B, N) or (B, C, N), for shape, dtype and device.
        """
        gaps, times, still = self._schedule(length, timestamps, since, like.device)
        if times.dim() == 2 and like.dim() == 3:
            gaps, times = gaps.unsqueeze(-1), times.unsqueeze(-1)
        steps = self._steps(gaps, times, timestamps is not None, since is None, like)
        if still is None:
            yield from steps
        else:
            where = still.view(*still.shape, *[1] * (like.dim() - 1))
            yield from (_unless(pause, step) for pause, step in zip(where, steps, strict=True))

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
        if self.measure.scale_invariant and self.discretization != "zoh":
            if timestamps is None:  # dt/t = 1/k
                step = torch.arange(1, length, dtype=torch.float64, device=like.device).reciprocal().unsqueeze(-1)
            else:
                times = timestamps.detach().to(torch.float64).mT
                step = _relative(times.diff(dim=0), times[1:])
            step = step.to(like).expand(-1, len(like)).contiguous()
            return LegSSteps(step, _alpha(self.discretization), self.order)
        if self.measure.scale_invariant or timestamps is not None:
            return None
        return _lti_step(self.measure, self.order, self.discretization, like.dtype, like.device)

    def _schedule(
        self, length: int, timestamps: Tensor | None, since: Tensor | float | None, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return gaps and times, (L,) where all samples share them and (L, B) where not, in float64; and at which steps
        no time passes for a sample, (L, B), or None if that is nowhere."""
        if timestamps is not None:
            times = timestamps.detach().to(torch.float64).mT
        else:
            first = self._origin if since is None else since + 1
            times = torch.arange(length, dtype=torch.float64, device=device)
            times = times.unsqueeze(-1) + first if isinstance(first, Tensor) else times + first
        start = since if isinstance(since, Tensor) else torch.full_like(times[:1], since or 0.0)
        previous = torch.cat([start.to(times).expand_as(times[:1]), times[:-1]])
        if timestamps is not None:
            check_timestamps(times, previous)
        gaps = times - previous
        if times.dim() == 1:
            return gaps, times, None
        still = gaps == 0
        if since is None:
            still[0] = False
        gap, time = gaps.amax(1, keepdim=True), times.amax(1, keepdim=True)
        if not (still | ((gaps == gap) & (times == time))).all():
            return gaps, times, None
        return gap[:, 0], time[:, 0], still if still.any() else None  # all are sampled alike, until some end

    def _steps(self, gaps: Tensor, times: Tensor, timed: bool, first: bool, like: Tensor) -> Iterator[Transition]:
        """Yield the steps for gaps and times (L,), alike for the whole batch, or (L, B)."""
        if self.measure.scale_invariant:
            relative = _relative(gaps, times)
            if first:
                relative = relative[1:]
                yield Transition(None, torch.eye(1, self.order, dtype=like.dtype, device=like.device)[0])
            if self.discretization == "zoh":
                yield from (legs_dilation(self.order, step, like.dtype) for step in relative)
            else:
                for chunk in relative.split(_CHUNK):
                    yield from legs_transition(self.order, chunk, _alpha(self.discretization), like.dtype).unbind()
            return
        if not timed:
            yield from itertools.repeat(self._regular(1.0, like), len(gaps))
            return
        if first:
            gaps = gaps[1:]
            yield Transition(None, _constant(self.measure, self.order).to(like))
        if gaps.dim() == 1:
            regular = functools.cache(lambda gap: self._regular(gap, like))
            yield from (regular(gap) for gap in gaps.tolist())
        else:
            A, B = (v.to(like.device) for v in self.measure.dynamics(self.order))
            for gap in gaps:
                A_bar, B_bar = _discretized(A, B, self.discretization, gap)
                yield Transition(A_bar.to(like.dtype), B_bar.to(like.dtype))

    def extra_repr(self) -> str:
        return f"{self.measure}, order={self.order}, discretization={self.discretization!r}"

    @property
    def _origin(self) -> int:
        """Time of the first sample of a signal without timestamps."""
        return 0 if self._sweeps else 1

    def _regular(self, gap: float, like: Tensor) -> Transition:
        return Transition(*(v.to(like) for v in _regular_step(self.measure, self.order, self.discretization, gap)))


@functools.lru_cache(maxsize=16)
def _regular_step(measure: Measure, order: int, discretization: str | float, gap: float) -> tuple[Tensor, Tensor]:
    """Ā and B̄ of a translated measure for one gap, in float64, kept from one sequence to the next."""
    with torch.inference_mode(False), torch.device("cpu"):  # what is kept may be needed in training, and anywhere
        return _discretized(*measure.dynamics(order), discretization, gap)


@functools.lru_cache(maxsize=4)
def _blocks(
    measure: Measure, order: int, discretization: str | float, dtype: torch.dtype, device: torch.device
) -> lti.Blocks:
    with torch.inference_mode(False), torch.no_grad():
        blocks = lti.Blocks.of(*_regular_step(measure, order, discretization, 1.0))
        return blocks.to(torch.empty(0, dtype=dtype, device=device))


@functools.lru_cache(maxsize=4)
def _lti_step(
    measure: Measure, order: int, discretization: str | float, dtype: torch.dtype, device: torch.device
) -> LTIStep:
    with torch.inference_mode(False), torch.no_grad():
        step = _regular_step(measure, order, discretization, 1.0)
        return LTIStep(*(v.to(dtype=dtype, device=device) for v in step))


@functools.lru_cache(maxsize=16)
def _constant(measure: Measure, order: int) -> Tensor:
    """The coefficients (N,) of a translated measure for a past that has been 1 for ever, in float64: A c + B = 0."""
    with torch.inference_mode(False), torch.device("cpu"):
        A, B = measure.dynamics(order)
        return -(torch.linalg.pinv(A) @ B)


def _discretized(A: Tensor, B: Tensor, discretization: str | float, gap: Tensor | float) -> tuple[Tensor, Tensor]:
    if discretization == "zoh":
        return discretize.zoh(A, B, gap)
    return discretize.gbt(A, B, gap, _alpha(discretization))


def _relative(gaps: Tensor, times: Tensor) -> Tensor:
    """LegS's steps dt/t; where no time passes, 0 even at t = 0."""
    return torch.where(gaps > 0, gaps / times, 0.0)


def _alpha(discretization: str | float) -> float:
    return ALPHA[discretization] if isinstance(discretization, str) else discretization


def _unless(pause: Tensor, step: Step) -> Step:
    """The step, but for samples for which no time passes."""
    return lambda c, f: torch.where(pause, c, step(c, f))


def _check_finite(signal: Tensor) -> None:
    if not torch.isfinite(signal).all():
        raise ValueError(
            f"signal must hold finite floating-point numbers; this one is {signal.dtype} with NaN or infinity, to be "
            "masked or filled in"
        )


def check_timestamps(times: Tensor, previous: Tensor) -> None:
    """Raise ValueError unless times (L, B) are finite and each is at least the one before it, the first at least 0."""
    bad = ~(torch.isfinite(times) & (times >= previous))
    if bad.any():
        k, sample = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"timestamps must be finite, non-negative and non-decreasing; sample {sample} of the batch has "
            f"{times[k, sample].item():g} at step {k} after {previous[k, sample].item():g}. Sort the series by time, "
            "and repeat the last timestamp in padding."
        )
