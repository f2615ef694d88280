"""The gated network with a LegS memory as one compiled loop over the whole sequence, for the CPU.

A step is one matrix product forward and two backward, one for the states and one for the weights: the input and the
bias are part of the row that a step reads. What a step needs beside what is kept for the backward pass belongs to one
thread, and stays in the processor's cache.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hippo.kernels import legs
from hippo.kernels.common import buffers, native
from hippo.kernels.common.loops import add, copy, loop, product, share, sigmoid, split, tanh
from hippo.kernels.gated.steps import LegSSteps

_SPAN = 8  # steps whose products for the gradient of the weights are done as one
_step = legs.cpu_step()
advance, retreat = _step.advance, _step.retreat  # loops know names of modules' own


def gated(x: Tensor, weight: Tensor, written_x: Tensor, write: Tensor, steps: LegSSteps) -> Sequence[Tensor]:
    """Return the hidden states (B, D) after each of L steps; gradients are of first order only.

    Args:
        x: (L, B, C).
        weight: (2D, R), for the rows [c, x, 1, 0, …] of what a step reads.
        written_x: (L, B).
        write: (D,).
        steps: Of the memory.

    Raises:
        RuntimeError: In a backward pass, if a gradient of higher order is asked for.
    """
    return _Gated.apply(x, weight, written_x, write, *steps, torch.is_grad_enabled())  # type: ignore[return-value]


class _Gated(torch.autograd.Function):
    """x (L, B, C), weight (2D, R), written (L, B), write (D,) ↦ L hidden states (B, D).

    A forward pass writes three arrays, which the backward pass reads. Where there will be none, the first two have
    places for two steps only, which are written in turn:
        read: The rows that steps read, N coefficients, C inputs, 1, and zeros, (L · B or 2 · B, R). Those of a thread
            stand together, step by step, so that several steps are one matrix.
        gates: σ(g) and tanh(z), (L or 2, B, 2D).
        hidden: The states before the first step and after each, (L + 1, B, D).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        written: Tensor,
        write: Tensor,
        step: Tensor,
        alpha: float,
        order: int,
        power: float,
        recording: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # states that nothing depends on have the gradient None, not zeros
        ctx.steps, ctx.channels = LegSSteps(step, alpha, order, power), x.shape[-1]
        places = len(x) if recording and any(ctx.needs_input_grad) else 2
        read, gates, hidden, threads = _forward(x, weight, written, write, ctx.steps, places)
        ctx.save_for_backward(weight, write, read, gates, hidden, threads)
        return hidden[1:].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_hidden: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("the HiPPO network has gradients of first order only; HiPPORNN.step_by_step has all")
        return *_backward(*ctx.saved_tensors, ctx.steps, ctx.channels, grad_hidden), None, None, None, None, None


@native.opaque
def _forward(
    x: Tensor, weight: Tensor, written: Tensor, write: Tensor, steps: LegSSteps, places: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return read, gates and hidden, the first two with places for so many steps, and the number of threads."""
    (length, batch, _), (doubled, width), size = x.shape, weight.shape, len(write)
    read = buffers.empty(places * batch * width, x).view(places * batch, width)
    gates = buffers.empty(places * batch * doubled, x).view(places, batch, doubled)
    hidden = buffers.empty((length + 1) * batch * size, x).view(length + 1, batch, size)
    hidden[0].zero_()
    shares, rule = split(batch), _step.recursion(steps.order, steps.alpha, x.dtype, steps.power)
    share(_advance, x, weight.mT, written, write, steps.step, rule, read, gates, hidden, shares=shares)
    return read, gates, hidden, torch.tensor(len(shares), device="cpu")


@native.opaque
def _backward(
    weight: Tensor,
    write: Tensor,
    read: Tensor,
    gates: Tensor,
    hidden: Tensor,
    threads: Tensor,
    steps: LegSSteps,
    channels: int,
    grad_hidden: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, written and write from those of the L states, None where there is none."""
    length, batch, _ = gates.shape
    shares = split(batch, int(threads))  # there may be others by now
    present = [t for t, grad in enumerate(grad_hidden) if grad is not None]
    grads = torch.stack([grad for grad in grad_hidden if grad is not None]) if present else hidden[:0]
    number = torch.full((length,), -1)
    number[present] = torch.arange(len(present))
    grad_x, grad_written = gates.new_zeros(length, batch, channels), gates.new_zeros(length, batch)
    rule = _step.recursion(steps.order, steps.alpha, gates.dtype, steps.power)
    arrays = grads, number, weight, write, steps.step, rule, read, gates, hidden
    parts = share(_retreat, *arrays, grad_x, grad_written, shares=shares)
    grad_weight, grad_write = (torch.from_numpy(sum(part)) for part in zip(*parts, strict=True))
    return grad_x, grad_weight, grad_written, grad_write


@loop
def _advance(x, weight, written, write, step, recursion, read, gates, hidden, begin, end):
    """All steps for the samples from `begin` to `end`; c holds their coefficients, (N, B)."""
    order, count, steps = len(recursion.high), end - begin, len(gates)
    c, u = np.zeros((order, count), read.dtype), np.empty(count, read.dtype)
    carried = np.empty_like(u)
    for t in range(len(x)):
        k, now = t % steps, written[t, begin:end]
        first = begin * steps + k * count
        rows = read[first : first + count]
        product(hidden[t, begin:end], write, u)
        for b in range(count):
            u[b] += now[b]
        if t > 0:
            advance(c, u, step[t - 1, begin:end], recursion, carried)
        else:
            copy(u, c[0])
        _write_rows(c, x[t, begin:end], recursion.n[1], rows)
        product(rows, weight, gates[k, begin:end])
        for b in range(begin, end):
            _update_state(gates[k, b], hidden[t, b], hidden[t + 1, b])


@loop
def _write_rows(c, x, one, rows):
    """The rows [c, x, 1, 0, …]."""
    order, channels = len(c), x.shape[1]
    for block in range(0, order, 16):  # whole cache lines
        for b in range(len(rows)):
            row = rows[b]
            for n in range(block, min(block + 16, order)):
                row[n] = c[n, b]
    for b in range(len(rows)):
        row, inputs = rows[b], x[b]
        row[order:] = 0
        for i in range(channels):
            row[order + i] = inputs[i]
        row[order + channels] = one


@loop
def _update_state(z, past, after):
    """h ← h + σ(g) (tanh(z) − h); σ(g) and tanh(z) replace g and z."""
    size = len(past)
    gate, candidate = z[:size], z[size:]
    for i in range(size):
        gate[i] = sigmoid(gate[i])
    for i in range(size):
        candidate[i] = tanh(candidate[i])
    for i in range(size):
        after[i] = past[i] + gate[i] * (candidate[i] - past[i])


@loop
def _retreat(grads, number, weight, write, step, recursion, read, gates, hidden, grad_x, grad_written, begin, end):
    """Back through all steps, for the samples from `begin` to `end`. What comes to the state of step t from outside is
    grads[number[t]], or nothing where that is below 0.

    Returns:
        What these samples contribute to the gradients of weight and write.
    """
    order, count, size, channels = len(recursion.high), end - begin, len(write), grad_x.shape[2]
    (doubled, width), kind = weight.shape, read.dtype
    grad_weight, grad_write = np.zeros((doubled, width), kind), np.zeros(size, kind)
    grad_h, grad_c, grad_u = np.zeros((count, size), kind), np.zeros((order, count), kind), np.zeros(count, kind)
    grad_read, carried = np.empty((count, width), kind), np.empty(count, kind)
    grad_z, of_span = np.empty((_SPAN, count, doubled), kind), np.empty((doubled, width), kind)
    for t in range(len(gates) - 1, -1, -1):
        z = grad_z[t % _SPAN]
        if number[t] >= 0:
            for b in range(count):
                add(grad_h[b], grads[number[t], begin + b])
        for b in range(count):
            _update_state_adjoint(gates[t, begin + b], hidden[t, begin + b], write, grad_u[b], grad_h[b], z[b])
        product(z, weight, grad_read)
        if t % _SPAN == 0:
            first, filled = begin * len(gates) + t * count, min(_SPAN, len(gates) - t) * count
            product(grad_z.reshape(-1, doubled)[:filled].T, read[first : first + filled], of_span)
            add(grad_weight.reshape(-1), of_span.reshape(-1))
        _add_rows(grad_c, grad_read)
        if t > 0:
            retreat(grad_c, grad_u, step[t - 1, begin:end], recursion, carried)
        else:
            copy(grad_c[0], grad_u)
        for b in range(count):
            for i in range(channels):
                grad_x[t, begin + b, i] = grad_read[b, order + i]
            grad_written[t, begin + b] = grad_u[b]
            past = hidden[t, begin + b]
            for i in range(size):
                grad_write[i] += grad_u[b] * past[i]
    return grad_weight, grad_write


@loop
def _update_state_adjoint(gates, past, write, grad_u, grad_h, grad_z):
    """From grad_h after the step to grad_z, and to grad_h before it but for what the state writes."""
    size = len(past)
    one = type(grad_u)(1)
    gate, candidate, grad_gate, grad_candidate = gates[:size], gates[size:], grad_z[:size], grad_z[size:]
    for i in range(size):
        total = grad_h[i] + write[i] * grad_u
        passed = total * gate[i]
        grad_gate[i] = (candidate[i] - past[i]) * passed * (one - gate[i])
        grad_candidate[i] = passed * (one - candidate[i] * candidate[i])
        grad_h[i] = total - passed


@loop
def _add_rows(c, rows):
    """c (N, B) ← c + the first N of each row."""
    order = len(c)
    for block in range(0, order, 16):
        for b in range(len(rows)):
            row = rows[b]
            for n in range(block, min(block + 16, order)):
                c[n, b] += row[n]
