"""Online memory: compress a signal, sample by sample, into N coefficients from which its past can be read back."""

import math
import numbers
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hippo import measures, routes, schedule, steps, transitions
from hippo.kernels.gated import LegSSteps, LTIStep, Step
from hippo.measures import Measure
from hippo.routes import Form, Route, Signal
from hippo.steps import Law
from hippo.transitions import Transition


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

    The memory holds no weights and no tables, and knows no maximum length. A step of LegS, or of JacS, costs O(N).
    Under "zoh" it costs O(N²), and gradients have to keep its transitions, L·N² numbers; but `remember` costs O(N) a
    sample, and its gradients keep L·N. A step of another measure of all the past takes a matrix of its own each time,
    O(N³). One of a translated measure costs O(N²), with one transition for all steps, or one for each gap that occurs
    where the whole batch has the same timestamps; where each sample has its own, gradients keep B·L·N² numbers.

    On a CPU, where `hippo.kernels.compiled()`, steps of LegS and JacS under a generalized bilinear transform are
    compiled. They have gradients of any order; batched ones (`is_grads_batched`), and vectorised data, they have not.
    `route` says which implementation serves a call.

    **Time.** With timestamps, sample k stands for the interval (t_{k-1}, t_k], and the first one for all that was
    before: the memory starts as that of a constant. One that repeats the timestamp before it stands for no time at all
    and leaves the memory as it was. A memory of all the past depends on ratios of times only, hence multiplying all
    timestamps by a constant changes nothing; the others depend on differences only, hence adding one changes nothing.
    (Gaps of several windows are for "zoh": a bilinear transform rings.) Without timestamps, steps are 1 and a
    translated memory starts empty; a memory of all the past under a generalized bilinear transform has t_k = 0, 1, …,
    as in the paper: the first sample fills the memory and the k-th moves it by dt/t = 1/k.

    Args:
        measure: "legs", or a `Measure` with its parameters: LegT(length=200).
        order: Number of coefficients N ≥ 1.
        discretization: "bilinear", "euler", "backward_euler", "zoh" (exact for piecewise-constant input, in log t for a
            measure of all the past; but a step is dense), or a number α ∈ [0, 1] for the generalized bilinear
            transform.

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
                decrease, are negative or not finite, or the form is not one that this memory has. On a GPU nobody looks
                at the values of signal and timestamps, for which the host would wait each time.
        """
        whole = self._begin(signal, timestamps, state)
        route = routes.choose(self._law, whole, last=False, form=form)
        coefficients = routes.follow(route, self._law, whole, last=False)
        return coefficients, State(coefficients[:, -1].clone(), self._end(whole))

    def remember(self, signal: Tensor, timestamps: Tensor | None = None, *, state: State | None = None) -> State:
        """Remember a whole signal, or the next chunk of one, and return the state after it: what `forward` has at the
        end, without what it has on the way.

        Without timestamps this takes millions of steps a second: bilinear LegS and JacS where
        `hippo.kernels.compiled()`, their gradients without memory, and translated measures in blocks of samples.
        Arguments and errors are those of `forward`.
        """
        whole = self._begin(signal, timestamps, state)
        route = routes.choose(self._law, whole, last=True, form="recurrence")
        return State(routes.follow(route, self._law, whole, last=True), self._end(whole))

    def step(self, f: Tensor, timestamps: Tensor | None = None, *, state: State | None = None) -> State:
        """Remember one sample f of shape (B,) or (B, C), with timestamps (B,) where there are any.

        This takes some 15 microseconds with N = 64: without gradients; with timestamps for a batch of one only, and
        where gaps differ for LegS and JacS only. The numbers are those of `forward`, and so are the errors.
        """
        _check_tensor("f", f)
        if f.dim() not in (1, 2):
            raise ValueError(f"f must be one sample of each signal, (B,) or (B, C), not {tuple(f.shape)}")
        if timestamps is not None or state is not None:
            _check_kinds("(B,)", timestamps, state)
        if state is not None and (after := routes.one_more(self._law, f, timestamps, *state)) is not None:
            return State(*after)
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
        return routes.choose(self._law, self._begin(signal, timestamps, state), last=last, form=form)

    @property
    def _law(self) -> Law:
        return Law(self.measure, self.order, self.discretization)

    def _begin(self, signal: Tensor, timestamps: Tensor | None, state: State | None) -> Signal:
        """Check all arguments but the values of the signal."""
        _check_tensor("signal", signal)
        if signal.dtype in (torch.float16, torch.bfloat16):
            signal = signal.float()  # in which many samples can be added up
        if signal.dim() not in (2, 3) or 0 in signal.shape:
            raise ValueError(f"signal must be (B, L) or (B, L, C) with B, L, C ≥ 1, not {tuple(signal.shape)}")
        if not signal.is_floating_point():
            raise ValueError(f"signal must hold finite floating-point numbers; this one is {signal.dtype}")
        _check_kinds("(B, L)", timestamps, state)
        if timestamps is not None and timestamps.shape != signal.shape[:2]:
            raise ValueError(
                f"timestamps {tuple(timestamps.shape)} do not match the signal's {tuple(signal.shape[:2])}"
            )
        if timestamps is not None:
            schedule.check_clock(timestamps, from_zero=state is None and self.measure.scale_invariant)
        shape = (signal.shape[0], *signal.shape[2:], self.order)
        if state is None:
            return Signal(signal, timestamps, None, signal.new_zeros(shape))
        c, since = state
        if c.shape != shape:
            raise ValueError(f"state holds coefficients {tuple(c.shape)}; this signal needs {shape}")
        if (c.dtype, c.device) != (signal.dtype, signal.device):
            raise ValueError(
                f"state is {c.dtype} on {c.device}, and the signal {signal.dtype} on {signal.device}; convert one"
            )
        if isinstance(since, Tensor) and since.shape != signal.shape[:1]:
            raise ValueError(f"state.time must be a number or ({len(signal)},), not {tuple(since.shape)}")
        if not isinstance(since, Tensor) and not 0 <= since < math.inf:
            raise ValueError(f"state.time must be finite and at least 0, not {since}")
        return Signal(signal, timestamps, since if isinstance(since, (Tensor, int)) else float(since), c)

    def _end(self, signal: Signal) -> Tensor | float:
        """Return the time of the last sample."""
        if signal.timestamps is not None:
            return signal.timestamps[:, -1].clone()  # the caller may fill a buffer of chunks anew
        return (self._law.origin - 1 if signal.since is None else signal.since) + signal.samples.shape[1]

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
        """Return the memory's step for each of `length` samples: a function (c, f) ↦ new c, of (..., N) and (...).

        Args:
            length: Number of steps L.
            timestamps: (B, L), or None.
            since: Time of the latest sample remembered so far, as in `State`; None if there is none.
            like: Coefficients (B, N) or (B, C, N), for shape, dtype and device.
        """
        return steps.each(self._law, length, timestamps, since, like)

    def transition(self, like: Tensor) -> Transition | None:
        """Return the step that all samples share where none has a timestamp; None where each is another, as of LegS.

        Args:
            like: For dtype and device.
        """
        if self.measure.scale_invariant:
            return None
        return transitions.translated(*self._law, 1.0, like.dtype, like.device)

    def kernel_steps(self, length: int, timestamps: Tensor | None, like: Tensor) -> LegSSteps | LTIStep | None:
        """Return the steps of a whole sequence in a form that `hippo.kernels.gated` knows; None where there is none.

        On a GPU the host waits for nothing. Whether timestamps are valid, `check_timestamps` has to say before.

        Args:
            length: Number of steps L.
            timestamps: (B, L), or None.
            like: (B, ...), for dtype and device.
        """
        return steps.for_kernels(self._law, length, timestamps, like)

    def extra_repr(self) -> str:
        return f"{self.measure}, order={self.order}, discretization={self.discretization!r}"


torch.serialization.add_safe_globals([State])  # for torch.load(…, weights_only=True)


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
