"""The gated network on a GPU: a few steps at a time, with Triton's kernels and as graphs that are replayed.

Starting a kernel takes longer than most of these run. So a step is three or four of them: the memory's step, the
product of what it reads, and one for all that is elementwise. And `STEPS` steps are one graph for each shape, whose
arrays stay where they are; a sequence of any length goes through them chunk by chunk. What its backward pass needs is
kept outside. The graphs live as long as their owner.

This module imports triton: ask `hippo.kernels.common.gpus.serves` first.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from hippo.kernels import legs
from hippo.kernels.common import graphs, native
from hippo.kernels.gated.steps import LegSSteps, LTIStep

STEPS = 32  # of a chunk
_SHAPES = 4  # whose graphs an owner keeps, such as those of training, of the last batch, and of evaluation
_BLOCK = 512  # numbers that a program takes at once
_WARPS = 4
_step = legs.gpu_step()


@native.opaque
def gated(
    x: Tensor, weight: Tensor, written_x: Tensor, write: Tensor, steps: LegSSteps | LTIStep, owner: object
) -> tuple[Sequence[Tensor], bool]:
    """Return the hidden states (B, D) after each of L steps, and whether graphs were replayed. Gradients are of first
    order only.

    Args:
        x: (L, B, C).
        weight: (2D, R), for the rows [c, x, 1, 0, …] of what a step reads.
        written_x: (L, B).
        write: (D,).
        steps: Of the memory.
        owner: At its death the graphs are released.

    Raises:
        RuntimeError: In a backward pass, if a gradient of higher order is asked for.
    """
    with torch.cuda.device_of(x):
        chunk = _chunk(x, weight, steps, owner)
        hidden = _Gated.apply(x, weight, written_x, write, steps, chunk, torch.is_grad_enabled())
    return hidden, chunk.captured  # type: ignore[return-value]


class _Gated(torch.autograd.Function):
    """x (L, B, C), weight (2D, R), written (L, B), write (D,) ↦ L hidden states (B, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        written: Tensor,
        write: Tensor,
        steps: LegSSteps | LTIStep,
        chunk: "_Chunk",
        recording: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.steps, ctx.chunk = steps, chunk
        hidden, *kept = chunk.advance(x, weight, written, write, steps, recording and any(ctx.needs_input_grad))
        ctx.save_for_backward(weight, write, hidden, *kept)
        return hidden[1 : len(x) + 1].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_hidden: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("the HiPPO network has gradients of first order only; HiPPORNN.step_by_step has all")
        saved = ctx.saved_tensors  # once: what is computed anew, by a checkpoint, is computed each time
        with torch.cuda.device_of(saved[0]):
            return *ctx.chunk.retreat(*saved, ctx.steps, grad_hidden), None, None, None


class _Chunk:
    """A few steps of the network for one shape, in arrays that stay where they are.

    Sequences are filled up to whole chunks: at the end with zeros, which change nothing that is returned. The first
    sample of a LegS sequence is in the memory before the first step, which is then 0 long: it moves nothing.

    Args:
        x: (L, B, C), for sizes, dtype and device.
        weight: (2D, R).
        steps: Of the memory, for its order and α.
    """

    def __init__(self, x: Tensor, weight: Tensor, steps: LegSSteps | LTIStep) -> None:
        (_, batch, channels), (doubled, rows), size = x.shape, weight.shape, len(weight) // 2
        self._legs = isinstance(steps, LegSSteps)
        self._alpha, self._power = (steps.alpha, steps.power) if isinstance(steps, LegSSteps) else (0.0, 0.0)
        self._order = order = _order(steps)
        with torch.inference_mode(False), torch.no_grad():
            self._weight, self._write = x.new_zeros(doubled, rows), x.new_zeros(size)
            self._A, self._B = (x.new_zeros(0 if self._legs else n) for n in ((order, order), (order,)))
            self._step = x.new_zeros(STEPS, batch)
            self._written = x.new_zeros(STEPS + 1, batch)  # that of the next chunk's first step, too
            self._u = x.new_zeros(batch)
            self._read = x.new_zeros(STEPS + 1, batch, rows)  # before the first step and after each
            self._read[..., order + channels] = 1
            self._read_c, self._read_x = self._read[..., :order], self._read[1:, :, order : order + channels]
            self._gates = x.new_zeros(STEPS, batch, doubled)
            self._hidden = x.new_zeros(STEPS + 1, batch, size)
            self._grad_hidden = x.new_zeros(STEPS, batch, size)
            self._grad_z = x.new_zeros(STEPS, batch, doubled)
            self._grad_x, self._grad_written = x.new_zeros(STEPS, batch, channels), x.new_zeros(STEPS, batch)
            self._grad_h, self._grad_c, self._grad_u = (
                x.new_zeros(batch, size), x.new_zeros(batch, order), x.new_zeros(batch)
            )  # fmt: skip
            self._grad_weight, self._grad_write = torch.zeros_like(self._weight), torch.zeros_like(self._write)
            self._forward_graph = graphs.try_capture(self._forward)
        self._lock = threading.Lock()

    @property
    def captured(self) -> bool:
        """Whether graphs are replayed, of the backward pass as well if there was one."""
        return self._forward_graph is not None and vars(self).get("_backward_graph", True) is not None

    @functools.cached_property
    def _backward_graph(self) -> Callable[[], None] | None:
        return graphs.try_capture(self._backward)

    def advance(
        self,
        x: Tensor,
        weight: Tensor,
        written: Tensor,
        write: Tensor,
        steps: LegSSteps | LTIStep,
        keep: bool,
    ) -> list[Tensor]:
        """Return the states, (1 + chunks · STEPS, B, D); and, to be kept, what steps read and their gates."""
        padded = -(-len(x) // STEPS) * STEPS
        arrays = self._hidden, *((self._read, self._gates) if keep else ())
        hidden, *kept = outputs = [x.new_empty(padded + (a is self._hidden), *a.shape[1:]) for a in arrays]
        x, written, step = _filled(x, padded), _filled(written, padded + 1), self._steps(steps, padded)
        run = self._forward_graph or self._forward
        with self._lock:
            self._set(weight, write, steps)
            for state in (hidden[0], self._hidden[0], self._read_c[0]):
                state.zero_()
            self._u.copy_(written[0])
            if self._legs:
                self._read_c[0, :, 0] = written[0]
            for begin in range(0, padded, STEPS):
                here = slice(begin, begin + STEPS)
                if begin:
                    self._hidden[0].copy_(self._hidden[-1])
                    self._read_c[0].copy_(self._read_c[-1])
                self._read_x.copy_(x[here])
                self._written.copy_(written[begin : begin + STEPS + 1])
                if step is not None:
                    self._step.copy_(step[here])
                run()
                hidden[begin + 1 : begin + STEPS + 1] = self._hidden[1:]
                for target, array in zip(kept, (self._read[1:], self._gates), strict=False):
                    target[here] = array
        return outputs

    def retreat(
        self,
        weight: Tensor,
        write: Tensor,
        hidden: Tensor,
        read: Tensor,
        gates: Tensor,
        steps: LegSSteps | LTIStep,
        grad_hidden: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of x, weight, written and write from those of the L states, None where there is none."""
        length, padded = len(grad_hidden), len(read)
        grad_x, grad_written = (a.new_empty(padded, *a.shape[1:]) for a in (self._grad_x, self._grad_written))
        step = self._steps(steps, padded)
        with self._lock:
            run = self._backward_graph or self._backward  # a capture writes to what follows
            self._set(weight, write, steps)
            for total in (self._grad_h, self._grad_c, self._grad_u, self._grad_weight, self._grad_write):
                total.zero_()
            for begin in range(padded - STEPS, -1, -STEPS):
                here = slice(begin, begin + STEPS)
                self._read[1:] = read[here]
                self._gates.copy_(gates[here])
                self._hidden[:-1] = hidden[here]
                if step is not None:
                    self._step.copy_(step[here])
                self._grad_hidden.zero_()
                for target, grad in zip(self._grad_hidden.unbind(), grad_hidden[here], strict=False):
                    if grad is not None:
                        target.copy_(grad)
                run()
                grad_x[here], grad_written[here] = self._grad_x, self._grad_written
            if self._legs:
                grad_written[0] += self._grad_c[:, 0]
            return grad_x[:length], self._grad_weight.clone(), grad_written[:length], self._grad_write.clone()

    def _set(self, weight: Tensor, write: Tensor, steps: LegSSteps | LTIStep) -> None:
        self._weight.copy_(weight)
        self._write.copy_(write)
        if isinstance(steps, LTIStep):
            self._A.copy_(steps.A)
            self._B.copy_(steps.B)

    def _steps(self, steps: LegSSteps | LTIStep, padded: int) -> Tensor | None:
        """Return LegS's relative steps (chunks · STEPS, B), 0 at the first step and beyond the last."""
        if not isinstance(steps, LegSSteps):
            return None
        return torch.nn.functional.pad(steps.step, (0, 0, 1, padded - 1 - len(steps.step)))

    def _forward(self) -> None:
        """The steps of a chunk, from what they find in `_hidden[0]`, `_read_c[0]` and `_u`."""
        for t in range(STEPS):
            c, target, z = self._read_c[t], self._read_c[t + 1], self._gates[t]
            if self._legs:
                _step.advance(c, self._step[t], self._u, self._alpha, target, self._power)
            else:
                torch.mul(self._u.unsqueeze(-1), self._B, out=target)
                target.addmm_(c, self._A.mT)
            torch.mm(self._read[t + 1], self._weight.mT, out=z)
            update_state(z, self._hidden[t], self._write, self._written[t + 1], self._hidden[t + 1], self._u)

    def _backward(self) -> None:
        """The adjoint of a chunk's steps; gradients of weights are added to."""
        order, channels = self._order, self._grad_x.shape[-1]
        for t in reversed(range(STEPS)):
            grad_u = self._grad_written[t + 1] if t + 1 < STEPS else self._grad_u
            update_state_adjoint(
                self._gates[t],
                self._hidden[t],
                self._write,
                grad_u,
                self._grad_hidden[t],
                self._grad_h,
                self._grad_z[t],
            )
            self._grad_c.addmm_(self._grad_z[t], self._weight[:, :order])
            if self._legs:
                _step.retreat(
                    self._grad_c, self._step[t], self._grad_written[t], self._alpha, self._grad_c, self._power
                )
            else:
                torch.mv(self._grad_c, self._B, out=self._grad_written[t])
                self._grad_c.copy_(self._grad_c @ self._A)
        self._grad_u.copy_(self._grad_written[0])
        grad_z = self._grad_z.flatten(0, 1)
        self._grad_weight.addmm_(grad_z.mT, self._read[1:].flatten(0, 1))
        torch.mm(grad_z, self._weight[:, order : order + channels], out=self._grad_x.flatten(0, 1))
        self._grad_write.addmv_(self._hidden[:-1].flatten(0, 1).mT, self._grad_written.flatten())


_chunks: WeakKeyDictionary[Any, OrderedDict[Hashable, _Chunk]] = WeakKeyDictionary()
_lookup = threading.Lock()


def _chunk(x: Tensor, weight: Tensor, steps: LegSSteps | LTIStep, owner: object) -> _Chunk:
    """Return an owner's graphs for sequences like this one, of any length; the latest few are kept."""
    rule = (steps.alpha, steps.power) if isinstance(steps, LegSSteps) else None
    key = (x.shape[1:], weight.shape, _order(steps), rule, x.dtype, *graphs.circumstances(x))
    with _lookup:
        chunks = _chunks.setdefault(owner, OrderedDict())
        chunk = chunks.pop(key, None) or _Chunk(x, weight, steps)
        chunks[key] = chunk
        if len(chunks) > _SHAPES:
            chunks.popitem(last=False)
    return chunk


def _order(steps: LegSSteps | LTIStep) -> int:
    return steps.order if isinstance(steps, LegSSteps) else len(steps.B)


def _filled(tensor: Tensor, length: int) -> Tensor:
    """Return a tensor (L, ...) with zeros up to another length."""
    return torch.nn.functional.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, length - len(tensor)))


def update_state(z: Tensor, h: Tensor, write: Tensor, written: Tensor, target: Tensor, u: Tensor) -> None:
    """Write h + σ(g) (tanh(z) − h) to `target`, and the memory's next input, written + write · target, to u.

    Args:
        z: [g, z] (B, 2D), to be replaced by [σ(g), tanh(z)].
        h: The state before, (B, D).
        write: (D,).
        written: What the next step's x writes, (B,).
        target: The state after, (B, D).
        u: (B,).

    Raises:
        ValueError: If an argument is not contiguous; so does `update_state_adjoint`.
    """
    _check_contiguous(z, h, write, written, target, u)
    with torch.cuda.device_of(z):
        kernel: Any = _update_state[(len(h),)]
        kernel(z, h, write, written, target, u, len(write), BLOCK=_BLOCK, num_warps=_WARPS)


def update_state_adjoint(
    gates: Tensor, h: Tensor, write: Tensor, grad_u: Tensor, grad: Tensor, grad_h: Tensor, grad_z: Tensor
) -> None:
    """Take the gradient of the state after a step, grad_h (B, D), to that of the state before, but for what that one
    writes; and write that of [g, z] to `grad_z` (B, 2D).

    Args:
        gates: [σ(g), tanh(z)], (B, 2D).
        h: The state before, (B, D).
        write: (D,).
        grad_u: Gradient (B,) of what the state after the step has written, to be added first.
        grad: Gradient (B, D) of that state from elsewhere, to be added first.
        grad_h: To be replaced.
        grad_z: To be written.
    """
    _check_contiguous(gates, h, write, grad_u, grad, grad_h, grad_z)
    with torch.cuda.device_of(h):
        kernel: Any = _update_state_adjoint[(triton.cdiv(h.numel(), _BLOCK),)]
        arrays = gates, h, write, grad_u, grad, grad_h, grad_z
        kernel(*arrays, h.numel(), len(write), BLOCK=_BLOCK, num_warps=_WARPS)


def _check_contiguous(*tensors: Tensor) -> None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("the kernels of the gated network need contiguous tensors; call contiguous() on them")


_VECTORS = ["write", "written", "u", "grad_u"]  # their alignment is not worth a kernel of its own


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _update_state(z, h, write, written, target, u, size, BLOCK: tl.constexpr):
    sample = tl.program_id(0)
    total = tl.load(written + sample)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        here, first = i < size, z + sample * 2 * size + i
        g = _sigmoid(tl.load(first, here, 0.0))
        candidate = _tanh(tl.load(first + size, here, 0.0))
        before = tl.load(h + sample * size + i, here, 0.0)
        after = before + g * (candidate - before)
        tl.store(first, g, here)
        tl.store(first + size, candidate, here)
        tl.store(target + sample * size + i, after, here)
        total += tl.sum(tl.load(write + i, here, 0.0) * after)
    tl.store(u + sample, total)


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _update_state_adjoint(gates, h, write, grad_u, grad, grad_h, grad_z, count, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here, first = at < count, at + at // size * size  # the first is where g stands
    g = tl.load(gates + first, here, 0.0)
    candidate = tl.load(gates + first + size, here, 0.0)
    total = tl.load(grad_h + at, here, 0.0) + tl.load(grad + at, here, 0.0)
    total += tl.load(write + at % size, here, 0.0) * tl.load(grad_u + at // size, here, 0.0)
    passed = total * g
    tl.store(grad_z + first, (candidate - tl.load(h + at, here, 0.0)) * passed * (1.0 - g), here)
    tl.store(grad_z + first + size, passed * (1.0 - candidate * candidate), here)
    tl.store(grad_h + at, total - passed, here)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """m / (m + 2) with m = e^{2x} − 1, which near 0 is a sum of powers: a difference would lose small states. The
    library's own does not run in the interpreter."""
    y = 2.0 * x
    powers = tl.zeros_like(x) + 1.0
    for k in tl.static_range(16):  # y (1 + y/2 (1 + y/3 (1 + …)))
        powers = 1.0 + powers * y * (1.0 / (17 - k))
    m = y * powers
    return tl.where(tl.abs(x) < 0.35, m / (m + 2.0), 1.0 - 2.0 / (tl.exp(y) + 1.0))
