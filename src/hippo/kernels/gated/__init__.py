"""The gated network of `hippo.models.HiPPORNN` over a whole sequence, with its own backward pass.

It computes what the loop in that model does in one matrix product a step, and two a step backward: one for the states,
one for the weights. The input and the bias are rows of what a step reads. What a step needs beside what is kept for
backward stays in the cache.

On a GPU, where starting a kernel takes longer than most of them run, the rest of a step is a few kernels of our own
(`hippo.kernels.gated.gpu`), the weights' products wait for many steps to be done as one, and a sequence that comes
again is replayed as a graph (`hippo.kernels.common.graphs`).
"""

import functools
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.common import buffers as room
from hippo.kernels.common import graphs as graph
from hippo.kernels.gated import cpu as loop
from hippo.kernels.gated import steps as eager
from hippo.kernels.legs import gpu as scan
from hippo.kernels.legs.cpu import Sweep
from hippo.kernels.legs.gpu import Scan, Scans
from hippo.transitions import Filling, Transition


class Operator(NamedTuple):
    """One step of a memory, on coefficients that stand as (N, B): c ↦ [c +] blocks c + into [out c, u].

    Attributes:
        blocks: The diagonal blocks (M, K, K) of Ā − I; the whole of Ā as (N, N); or None where it is 0.
        out: What passes from block to block, (M, N), or None.
        into: Where that goes, and B̄, (N, M + 1) or (N, 1).
    """

    blocks: Tensor | None
    out: Tensor | None
    into: Tensor

    @classmethod
    def of(cls, transition: Transition | Filling) -> "Operator":
        """Return a transition without batch dimensions in this form; N is filled up to whole blocks with zeros."""
        A, B = transition if isinstance(transition, Transition) else (None, transition.B)
        return cls(A, None, B.unsqueeze(-1))

    @classmethod
    def sequence(cls, transitions: Iterable[Transition | Filling]) -> "tuple[Operator, ...]":
        """Return the transitions of a sequence in this form, all with the same N."""
        steps = [cls.of(transition) for transition in transitions]
        rows = max(len(step.into) for step in steps)
        filled = (torch.nn.functional.pad(step.into, (0, 0, 0, rows - len(step.into))) for step in steps)
        return tuple(step._replace(into=into) for step, into in zip(steps, filled, strict=True))

    @property
    def packed(self) -> bool:
        """Whether coefficients have to be contiguous as (N, B); where not, they are better so as (B, N)."""
        return self.blocks is not None and self.blocks.dim() == 3

    @property
    def order(self) -> int:
        return self.into.shape[0]

    @property
    def width(self) -> int:
        return self.into.shape[1]

    def forward(self, c: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the next coefficients to `target`; the last row of `entering` (M + 1, B) is u, the others are room."""
        if self.blocks is None:
            torch.mm(self.into, entering[-1:], out=target)
            return
        if self.blocks.dim() == 2:
            torch.mm(self.blocks, c, out=target)
        else:
            blocked = (*self.blocks.shape[:2], c.shape[-1])
            torch.baddbmm(c.view(blocked), self.blocks, c.view(blocked), out=target.view(blocked))
        if self.out is not None:
            torch.mm(self.out, c, out=entering[:-1])
        target.addmm_(self.into, entering[-self.width :])

    def backward(self, grad: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the gradient of c to `target`, from that of the next coefficients, and that of u to the last row."""
        torch.mm(self.into.mT, grad, out=entering[-self.width :])
        if self.blocks is None:
            target.zero_()
        elif self.blocks.dim() == 2:
            torch.mm(self.blocks.mT, grad, out=target)
        else:
            blocked = (*self.blocks.shape[:2], grad.shape[-1])
            torch.baddbmm(grad.view(blocked), self.blocks.mT, grad.view(blocked), out=target.view(blocked))
        if self.out is not None:
            target.addmm_(self.out.mT, entering[:-1])


Operators = Sequence[Operator | Sweep | Scan]

_ALIGNED = 16  # products of matrices whose rows are whole cache lines are faster


class Inputs(NamedTuple):
    """What a sequence is computed from.

    Attributes:
        x: (L, B, C).
        weight: (2D, R), for the rows of what a step reads.
        written: What of the input the memory is given, (L, B).
        write: (D,).
    """

    x: Tensor
    weight: Tensor
    written: Tensor
    write: Tensor


class Kept(NamedTuple):
    """What a forward pass fills: for its backward pass every step, without one the latest two and all states.

    Attributes:
        seen: What a step reads, (L or 2, R, B): N coefficients, C inputs, 1, and zeros. In one dimension where
            they stand as `hippo.kernels.gated.cpu` has them.
        gates: σ(g) and tanh(z), (L or 2, B, 2D).
        hidden: The states before the first step and after each, (L + 1, B, D).
    """

    seen: Tensor
    gates: Tensor
    hidden: Tensor

    @classmethod
    def empty(cls, inputs: Inputs, operators: Operators, steps: int, flat: bool = False) -> "Kept":
        x, (doubled, rows) = inputs.x, inputs.weight.shape
        length, batch, _ = x.shape
        packed = operators[-1].packed
        read = (steps, rows, batch) if packed else (steps, batch, rows)
        sizes = read, (steps, batch, doubled), (length + 1, batch, doubled // 2)
        seen, gates, hidden = (room.empty(math.prod(size), x).view(size) for size in sizes)
        return cls(seen.flatten() if flat else seen if packed else seen.mT, gates, hidden)


def gated(
    x: Tensor, read: Tensor, bias: Tensor, written_x: Tensor, write: Tensor, operators: Operators
) -> tuple[Tensor, ...]:
    """Return the hidden states (B, D) after each of L steps:

        u_t = written_x_t + write · h_{t-1}
        c_t = Ā_t c_{t-1} + B̄_t u_t
        [g_t, z_t] = read [x_t, c_t] + bias
        h_t = h_{t-1} + σ(g_t) (tanh(z_t) − h_{t-1})

    with h_0 = c_0 = 0. Gradients are of first order only.

    Args:
        x: (L, B, C).
        read: (2D, C + N).
        bias: (2D,).
        written_x: (L, B).
        write: (D,).
        operators: The memory's steps, L of them.

    Raises:
        RuntimeError: In a backward pass, if a gradient of higher order is asked for.
    """
    order = operators[0].order  # N, filled up to whole blocks
    read_x, read_c = read.tensor_split([x.shape[-1]], dim=1)
    read_c = torch.nn.functional.pad(read_c, (0, order - read_c.shape[1]))
    weight = torch.cat([read_c, read_x, bias.unsqueeze(-1)], dim=1)
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % _ALIGNED))
    return _Gated.apply(x, weight, written_x, write, operators, torch.is_grad_enabled())  # type: ignore[return-value]


class _Gated(torch.autograd.Function):
    """x (L, B, C), weight (2D, R), written (L, B), write (D,) ↦ L hidden states (B, D)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, written: Tensor, write: Tensor, operators: Operators, recording: bool
    ) -> tuple[Tensor, ...]:
        inputs, length = Inputs(x, weight, written, write), len(x)
        steps_kept = length if recording and any(ctx.needs_input_grad) else 2
        ctx.set_materialize_grads(False)
        ctx.operators = operators
        with torch.cuda.device_of(x):
            replayed = _replayed(inputs, operators, steps_kept)
            if replayed is None:
                looped = loop.serves(inputs, operators)
                kept = Kept.empty(inputs, operators, steps_kept, flat=looped)
                threads = (loop.forward if looped else _forward)(inputs, operators, kept)  # type: ignore[arg-type]
                ctx.replayed, hidden = None, kept.hidden
                ctx.save_for_backward(*inputs, *kept, threads)
            else:
                version, hidden = replayed.forward(inputs, operators)
                ctx.replayed = replayed, version
                ctx.save_for_backward(*inputs)
        return hidden[1:].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("the HiPPO network has gradients of first order only; HiPPORNN.step_by_step has all")
        saved = ctx.saved_tensors
        inputs = Inputs(*saved[:4])
        with torch.cuda.device_of(inputs.x):
            if ctx.replayed is None:
                kept, threads = Kept(*saved[4:7]), saved[7]
                if threads is None:
                    grads = _backward(inputs, ctx.operators, kept, grad_outputs)
                else:
                    grads = loop.backward(inputs, ctx.operators, kept, threads, grad_outputs)
            else:
                replayed, version = ctx.replayed
                grads = replayed.backward(version, inputs, ctx.operators, grad_outputs)
        return *grads, None, None


def _forward(inputs: Inputs, operators: Operators, kept: Kept) -> None:
    """Fill `kept`."""
    (x, weight, written, write), (seen, gates, hidden) = inputs, kept
    (_, batch, channels), order = x.shape, operators[0].order
    ones = order + channels
    kernels = scan.kernels(x) or eager
    entering = x.new_empty(max(step.width for step in operators), batch)
    hidden[0].zero_()
    seen[:, ones].fill_(1)
    seen[:, ones + 1 :].fill_(0)
    c, u, read = x.new_zeros(order, batch), entering[-1], weight.mT
    # Views of all steps are made at once: one by one they would take longer than some of the work.
    kept_views = itertools.cycle(zip(*(v.unbind() for v in (seen, seen.mT, gates)), strict=True))
    views = zip(kept_views, itertools.pairwise(hidden.unbind()), x.unbind(), written.unbind(), strict=False)
    for step, ((rows, here, z), (h, h_next), x_t, written_t) in zip(operators, views, strict=False):
        target, seen_x = rows[:order], here[:, order:ones]
        kernels.enter(x_t, h, written_t, write, u, seen_x)
        step.forward(c, entering, target)
        c = target
        torch.mm(here, read, out=z)
        kernels.gate(z, h, h_next)


def _backward(inputs: Inputs, operators: Operators, kept: Kept, grad_hidden: Sequence[Tensor | None]) -> Inputs:
    """Return the gradients of the inputs from those of the L states, None where there is none."""
    (x, weight, _, write), (seen, gates, hidden) = inputs, kept
    (length, batch, channels), order, size = x.shape, operators[0].order, len(write)
    kernels, span, packed, ones = scan.kernels(x) or eager, _span(x), operators[-1].packed, order + channels
    read_c, read_x = weight[:, :order], weight[:, order:ones]
    grad_weight, grad_x = torch.zeros_like(weight), x.new_empty(x.shape)
    grad_h, grad_z = x.new_zeros(batch, size), x.new_empty(span, batch, 2 * size)
    grad_c, grad_next = x.new_zeros(2, order, batch) if packed else x.new_zeros(2, batch, order).mT
    grad_seen = x.new_empty(batch, weight.shape[1])
    # A step writes its u's gradient to the last of `width` rows; the others, not yet in use, are room.
    width = max(step.width for step in operators)
    entered = x.new_empty(width - 1 + length, batch)
    grad_written = entered[width - 1 :]
    grad_u = None
    views = [v.unbind() for v in (seen.mT, gates, hidden[:-1], grad_written)]
    for t, here, gates_t, h, grad_u_t in zip(range(length)[::-1], *(v[::-1] for v in views), strict=True):
        z = grad_z[t % span]
        kernels.gate_adjoint(gates_t, h, write, grad_u, grad_hidden[t], grad_h, z)
        if span == 1:
            grad_weight.addmm_(z.mT, here)
            torch.mm(z, weight, out=grad_seen)  # a product written as (N, B) is slower, by a third for some B
            grad_next += grad_seen.mT[:order]
            grad_x[t] = grad_seen[:, order:ones]
        else:
            grad_next.mT.addmm_(z, read_c)
        operators[t].backward(grad_next, entered[t : t + width], grad_c)
        grad_c, grad_next = grad_next, grad_c
        grad_u = grad_u_t
        if span > 1 and t % span == 0:
            these = slice(t, min(t + span, length))
            z = grad_z[: these.stop - t].flatten(0, 1)
            grad_weight.addmm_(z.mT, seen[these].mT.flatten(0, 1))
            grad_x[these] = (z @ read_x).unflatten(0, (-1, batch))
    grad_write = hidden[:-1].flatten(0, 1).mT @ grad_written.flatten()
    return Inputs(grad_x, grad_weight, grad_written, grad_write)


def _span(like: Tensor) -> int:
    """Steps whose products for the gradients of weights are done as one; on the CPU a step's are still in the cache."""
    return 64 if like.is_cuda else 1


class _Replayed:
    """A sequence of one shape as captured graphs.

    What it is given is copied in and what it returns is copied out, so that nobody holds what the next replay writes
    to. What is kept for the backward pass stays inside; where another sequence came in between, it is computed anew.
    """

    def __init__(self, inputs: Inputs, operators: Operators, steps_kept: int) -> None:
        with torch.inference_mode(False):
            self._inputs = Inputs(*(given.new_empty(given.shape) for given in inputs))
            self._operators = operators
            if isinstance(operators, Scans):
                first = operators.first._replace(into=operators.first.into.clone())
                self._operators = Scans(first, operators.step.clone(), operators.alpha)
            self._kept = Kept.empty(self._inputs, operators, steps_kept)
        self._lock = threading.Lock()
        self._version = 0
        self._advance: Callable[[], None] | None = None
        self._retreats = graph.Recent[tuple[Tensor, Callable[[], Inputs]]](size=4)

    def forward(self, inputs: Inputs, operators: Operators) -> tuple[int, Tensor]:
        """Return which computation this is, and the states (L + 1, B, D)."""
        with self._lock:
            self._compute(inputs, operators)
            return self._version, self._kept.hidden.clone()

    def backward(
        self, version: int, inputs: Inputs, operators: Operators, grad_hidden: Sequence[Tensor | None]
    ) -> Inputs:
        """Return the gradients of the inputs of a computation."""
        with self._lock:
            if version != self._version:
                self._compute(inputs, operators)
            there = {t: grad for t, grad in enumerate(grad_hidden) if grad is not None}
            retreat = self._retreats.get(tuple(there), lambda: self._capture_backward(there))
            if retreat is None:
                return _backward(self._inputs, self._operators, self._kept, grad_hidden)
            given, replay = retreat
            torch.stack(tuple(there.values()), out=given)
            return Inputs(*(grad.clone() for grad in replay()))

    def _compute(self, inputs: Inputs, operators: Operators) -> None:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        if isinstance(self._operators, Scans) and isinstance(operators, Scans):
            self._operators.step.copy_(operators.step)
        if self._advance is None:
            function = functools.partial(_forward, self._inputs, self._operators, self._kept)
            self._advance = graph.capture(function)
        self._advance()
        self._version += 1

    def _capture_backward(self, there: dict[int, Tensor]) -> tuple[Tensor, Callable[[], Inputs]]:
        given = self._kept.hidden.new_zeros(len(there), *self._kept.hidden.shape[1:])
        grads: list[Tensor | None] = [None] * len(self._operators)
        for t, grad in zip(there, given, strict=True):
            grads[t] = grad
        return given, graph.capture(functools.partial(_backward, self._inputs, self._operators, self._kept, grads))


_sequences = graph.Recent[_Replayed](size=8)


def _replayed(inputs: Inputs, operators: Operators, steps_kept: int) -> _Replayed | None:
    """Return the graphs of a sequence that has come before, with other numbers; None where there are none."""
    if not graph.serves(inputs.x):
        return None
    steps = (operators.alpha, operators.order) if isinstance(operators, Scans) else id(operators)
    key = (steps, steps_kept, *(given.shape for given in inputs), inputs.x.dtype, *graph.circumstances(inputs.x))
    return _sequences.get(key, lambda: _Replayed(inputs, operators, steps_kept))
