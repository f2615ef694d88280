"""The gated network with a LegS memory as one compiled loop over the whole sequence, for the CPU.

A step is one matrix product forward and two backward, one for the states and one for the weights: the input and the
bias are part of the row that a step reads. What a step needs beside what is kept for the backward pass stays in the
processor's cache.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.common import buffers, products
from hippo.kernels.common import compile as jit
from hippo.kernels.common.products import gemm, linear, linear_adjoint, sigmoid, tanh, values
from hippo.kernels.gated.steps import LegSSteps
from hippo.kernels.legs.cpu import numbers

_SPAN = 8  # steps whose products for the gradient of the weights are done as one


@jit.opaque
def serves(inputs: Sequence[Tensor], steps: LegSSteps) -> bool:
    """Return whether this loop can be had for tensors like these."""
    return (
        all(map(jit.serves, inputs))
        and {value.dtype for value in (*inputs, steps.step)} == {inputs[0].dtype}
        and products.library() is not None
    )


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


class _Kept(NamedTuple):
    """What a forward pass leaves for its backward pass; without one, `read` and `gates` hold the latest two steps.

    Attributes:
        read: The rows that steps read: N coefficients, C inputs, 1, and zeros. (L or 2, B, R) for the samples of each
            thread, one thread after the other, so that steps can be read as one matrix; flat.
        gates: σ(g) and tanh(z), (L or 2, B, 2D).
        hidden: The states before the first step and after each, (L + 1, B, D).
    """

    read: Tensor
    gates: Tensor
    hidden: Tensor


class _Gated(torch.autograd.Function):
    """x (L, B, C), weight (2D, R), written (L, B), write (D,) ↦ L hidden states (B, D)."""

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
        recording: bool,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.steps = LegSSteps(step, alpha, order)
        keep = len(x) if recording and any(ctx.needs_input_grad) else 2
        kept, threads = _forward(x, weight, written, write, ctx.steps, keep)
        ctx.save_for_backward(x, weight, write, *kept, threads)
        return kept.hidden[1:].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_hidden: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("the HiPPO network has gradients of first order only; HiPPORNN.step_by_step has all")
        x, weight, write, *kept, threads = ctx.saved_tensors
        return *_backward(x, weight, write, ctx.steps, _Kept(*kept), int(threads), grad_hidden), None, None, None, None


@jit.opaque
def _forward(
    x: Tensor, weight: Tensor, written: Tensor, write: Tensor, steps: LegSSteps, keep: int
) -> tuple[_Kept, Tensor]:
    """Return what is kept, of `keep` steps, and the number of threads, ()."""
    x, weight, written, write = x.contiguous(), weight.contiguous(), written.contiguous(), write.contiguous()
    (length, batch, channels), (doubled, rows), size = x.shape, weight.shape, len(write)
    read = buffers.empty(keep * batch * rows, x)
    gates = buffers.empty(keep * batch * doubled, x).view(keep, batch, doubled)
    hidden = buffers.empty((length + 1) * batch * size, x).view(length + 1, batch, size)
    hidden[0].zero_()
    u, carried, c = x.new_empty(batch), x.new_empty(batch), x.new_zeros(steps.order, batch)
    arrays = [read, gates, hidden, x, written, write, weight, steps.step, u, carried, c]
    arrays += [*numbers(steps.order, x.dtype), products.constants(x.dtype)]
    sizes = steps.order, channels, rows, size, batch, length, keep
    threads = products.threads(batch)
    products.share(_advance, arrays, [], steps.alpha, sizes, products.shares(batch, threads))
    return _Kept(read, gates, hidden), torch.tensor(threads, device="cpu")


@jit.opaque
def _backward(
    x: Tensor,
    weight: Tensor,
    write: Tensor,
    steps: LegSSteps,
    kept: _Kept,
    threads: int,
    grad_hidden: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, written and write from those of the L states, None where there is none."""
    x, weight, write = x.contiguous(), weight.contiguous(), write.contiguous()
    (length, batch, channels), (doubled, rows), size = x.shape, weight.shape, len(write)
    grad_x, grad_written = torch.zeros_like(x), x.new_zeros(length, batch)
    grad_h, grad_c, grad_u = x.new_zeros(batch, size), x.new_zeros(steps.order, batch), x.new_zeros(batch)
    grad_z, grad_read = x.new_empty(_SPAN, batch, doubled), x.new_empty(batch, rows)
    shares = products.shares(batch, threads)
    own = [weight.new_zeros(len(shares), doubled, rows), write.new_zeros(len(shares), size)]
    arrays = [*(value.contiguous() for value in kept), write, weight, steps.step, grad_u, x.new_empty(batch)]
    arrays += [*numbers(steps.order, x.dtype), grad_h, grad_z, grad_c, grad_read, grad_x, grad_written]
    with_gradient = [t for t, grad in enumerate(grad_hidden) if grad is not None]
    for last, before in itertools.pairwise([*with_gradient[::-1], -1]):
        grad_h += grad_hidden[last]  # type: ignore[operator]
        sizes = steps.order, channels, rows, size, batch, length, _SPAN, before + 1, last
        products.share(_retreat, arrays, own, steps.alpha, sizes, shares)
    grad_weight, grad_write = (value.sum(0) for value in own)
    return grad_x, grad_weight, grad_written, grad_write


def _advance(
    read, gates, hidden, x, written, write, weight, step, u, carried, c, k, s, e,
    product, alpha, order, channels, rows, size, batch, length, keep, begin, end,
):  # fmt: skip
    """All steps for the samples from `begin` to `end`; c holds their coefficients, (N, B)."""
    zero, one, count, constants = k[0], k[1], end - begin, values(e)
    doubled = 2 * size

    def compute_input(now, state):
        """u ← written + write · h."""
        for b in range(begin, end):
            u[b] = written[now + b]
        gemm(
            product, 84, 78, count, 1, size, hidden, state + begin * size, size,
            write, 0, size, one, u, begin, batch,
        )  # fmt: skip

    def fill_memory():
        for b in range(begin, end):
            c[b] = u[b]

    def step_memory(d_at):
        """`hippo.kernels.legs.naive.legs_step`; `carried` is W_n."""
        for b in range(begin, end):
            y, d = c[b], step[d_at + b]
            w = d * (y - u[b]) / (one + alpha * d)
            c[b] = y - w
            carried[b] = w
        for n in range(1, order):
            low, high, root, row = k[n], k[n + 1], s[n], n * batch
            for b in range(begin, end):
                y, d, w = c[row + b], step[d_at + b], carried[b]
                solve = one / (one + alpha * d * high)
                c[row + b] = y - (d * high * y + root * w) * solve
                carried[b] = ((one - alpha * d * low) * w + d * root * y) * solve

    def write_rows(now, first):
        """The rows [c, x, 1, 0, …]."""
        for block in range(0, order, 16):  # whole cache lines
            for b in range(begin, end):
                for n in range(block, min(block + 16, order)):
                    read[first + b * rows + n] = c[n * batch + b]
        for b in range(begin, end):
            row = first + b * rows
            for i in range(order, rows):
                read[row + i] = zero
            for i in range(channels):
                read[row + order + i] = x[(now + b) * channels + i]
            read[row + order + channels] = one

    def update_state(state, z):
        """h ← h + σ(g) (tanh(z) − h); σ(g) and tanh(z) replace g and z."""
        for b in range(begin, end):
            row, start = state + b * size, z + b * doubled
            for i in range(size):
                gates[start + i] = sigmoid(gates[start + i], constants)
            for i in range(start + size, start + doubled):
                gates[i] = tanh(gates[i], constants)
            for i in range(size):
                g, candidate, past = gates[start + i], gates[start + size + i], hidden[row + i]
                hidden[row + batch * size + i] = past + g * (candidate - past)

    for t in range(length):
        now, state, z = t * batch, t * batch * size, (t % keep) * batch * doubled
        first = (keep * begin + (t % keep) * count - begin) * rows
        compute_input(now, state)
        if t == 0:
            fill_memory()
        else:
            step_memory(now - batch)
        write_rows(now, first)
        linear(
            product, weight, doubled, rows, read, first + begin * rows, rows, count,
            zero, gates, z + begin * doubled, doubled,
        )  # fmt: skip
        update_state(state, z)


def _retreat(
    read, gates, hidden, write, weight, step, grad_u, carried, k, s, grad_h, grad_z, grad_c, grad_read, grad_x,
    grad_written, grad_weight, grad_write,
    product, alpha, order, channels, rows, size, batch, length, span, bottom, top, begin, end,
):  # fmt: skip
    """The steps from `top` down to `bottom`, for the samples from `begin` to `end`."""
    zero, one, count = k[0], k[1], end - begin
    doubled = 2 * size

    def update_state_adjoint(state, z, to):
        """From grad_h after the step to grad_z, and to grad_h before it but for what the state writes."""
        for b in range(begin, end):
            row, at, here, from_u = b * size, z + b * doubled, to + (b - begin) * doubled, grad_u[b]
            for i in range(size):
                g, candidate = gates[at + i], gates[at + size + i]
                total = grad_h[row + i] + write[i] * from_u
                passed = total * g
                grad_z[here + i] = (candidate - hidden[state + row + i]) * passed * (one - g)
                grad_z[here + size + i] = passed * (one - candidate * candidate)
                grad_h[row + i] = total - passed

    def step_memory_adjoint(t, d_at):
        """grad_c ← Āᵀ (grad_c + grad_read), and grad_u ← B̄ᵀ of the same sum; the first step only fills the memory."""
        for b in range(begin, end):
            carried[b] = zero
        for down in range(1, order + 1):
            n = int(k[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
            for b in range(begin, end):
                grad_c[n * batch + b] += grad_read[b * rows + n]
            if t > 0 and n > 0:
                low, high, root, row = k[n], k[n + 1], s[n], n * batch
                for b in range(begin, end):
                    c, d, v = grad_c[row + b], step[d_at + b], carried[b]
                    solve = one / (one + alpha * d * high)
                    grad_c[row + b] = c - d * (high * c - root * v) * solve
                    carried[b] = ((one - alpha * d * low) * v - root * c) * solve
        for b in range(begin, end):
            moved = grad_c[b]
            if t > 0:
                c, d = grad_c[b], step[d_at + b]
                moved = d * (c - carried[b]) / (one + alpha * d)
                grad_c[b] = c - moved
            grad_u[b] = moved

    def store_gradients(now, state):
        for b in range(begin, end):
            from_u = grad_u[b]
            grad_written[now + b] = from_u
            for i in range(channels):
                grad_x[(now + b) * channels + i] = grad_read[b * rows + order + i]
            for i in range(size):
                grad_write[i] += from_u * hidden[state + b * size + i]

    for back in range(top - bottom + 1):
        t = top - back
        now, state, past = t * batch, t * batch * size, t % span
        first = (span * begin + past * count) * doubled
        update_state_adjoint(state, t * batch * doubled, first)
        if past == 0 or t == bottom:
            steps = min(span - past, top - t + 1)
            gemm(
                product, 78, 84, rows, doubled, steps * count, read, (length * begin + t * count) * rows, rows,
                grad_z, first, doubled, one, grad_weight, 0, rows,
            )  # fmt: skip
        linear_adjoint(
            product, weight, doubled, rows, grad_z, first, doubled, count, zero, grad_read, begin * rows, rows
        )
        step_memory_adjoint(t, now - batch)
        store_gradients(now, state)
