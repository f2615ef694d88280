"""The gated recurrent unit and the Legendre memory unit over a whole sequence as loops compiled for the CPU.

Each is an `advance`, which takes some of the samples (from `begin` to `end`) through all steps, and a `retreat`, which
takes their gradients back. Gradients of weights are large products at the end. For the way back a step keeps its
activations, in arrays (L, B, ...); without one they hold the latest two steps. The equations are in
`hippo.kernels.cells.naive`, which also has the gradients of higher order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.cells import naive
from hippo.kernels.common import buffers
from hippo.kernels.common.loops import loop, product, share, sigmoid, split, tanh


def gru(from_x: Tensor, weight: Tensor, bias: Tensor, decay: Tensor | None) -> Tensor:
    """See `hippo.kernels.cells.gru`."""
    hidden: Any = _GRU.apply(torch.is_grad_enabled(), from_x, weight, bias, decay)
    return hidden.transpose(0, 1)


def lmu(*inputs: Tensor | None) -> Tensor:
    """See `hippo.kernels.cells.lmu`."""
    hidden: Any = _LMU.apply(torch.is_grad_enabled(), *inputs)
    return hidden.transpose(0, 1)


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, recording: bool, from_x: Tensor, weight: Tensor, bias: Tensor, decay: Tensor | None
    ) -> Tensor:
        (length, batch, width), size = from_x.shape, weight.shape[1]
        steps = length if recording and any(ctx.needs_input_grad) else 2
        (hidden,) = _empty(from_x, (length + 1, batch, size))
        gates, candidate = _empty(from_x, (steps, batch, width), (steps, batch, size))
        hidden[0].zero_()
        read = from_x.new_empty(batch, size)
        share(_gru_advance, from_x, weight.mT, bias, decay, hidden, gates, candidate, read, shares=split(batch))
        ctx.save_for_backward(from_x, weight, bias, decay, hidden, gates, candidate)
        return hidden[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, hidden, gates, candidate = ctx.saved_tensors
        if _by_reference(grad_hidden):
            return None, *_gradients(naive.gru, inputs, ctx.needs_input_grad[1:], grad_hidden)
        from_x, weight, _, decay = inputs
        (_, batch, width), size = from_x.shape, weight.shape[1]
        (grad_x,), grad_decay = _empty(from_x, from_x.shape), None if decay is None else torch.empty_like(hidden[1:])
        grad_h, grad_read, grad_z = (from_x.new_zeros(batch, each) for each in (size, size, width))
        arrays = weight, decay, hidden, gates, candidate, grad_hidden, grad_h, grad_read, grad_z, grad_x, grad_decay
        share(_gru_retreat, *arrays, shares=split(batch))
        if not any(ctx.needs_input_grad[2:]):
            return None, grad_x, None, None, None
        read = hidden[:-1] if decay is None else hidden[:-1] * decay
        for_gates, for_candidate = grad_x[..., : 2 * size], grad_x[..., 2 * size :] * gates[..., :size]
        grad_weight = torch.cat([_product(for_gates, read), _product(for_candidate, read)])
        grad_bias = torch.cat([for_gates.sum((0, 1)), for_candidate.sum((0, 1))])
        return None, grad_x, grad_weight, grad_bias, grad_decay


@loop
def _gru_advance(from_x, weight, bias, decay, hidden, gates, candidate, read, begin, end):
    steps, size = len(gates), hidden.shape[2]
    for t in range(len(from_x)):
        k = t % steps
        for b in range(begin, end):
            for i in range(size):
                read[b, i] = hidden[t, b, i]
            if decay is not None:
                for i in range(size):
                    read[b, i] *= decay[t, b, i]
        product(read[begin:end], weight, gates[k, begin:end])
        for b in range(begin, end):
            z, z_x, new, past, after = gates[k, b], from_x[t, b], candidate[k, b], read[b], hidden[t + 1, b]
            for i in range(2 * size):
                z[i] = sigmoid(z[i] + bias[i] + z_x[i])
            reset, update, from_h = z[:size], z[size : 2 * size], z[2 * size :]
            new_x, new_bias = z_x[2 * size :], bias[2 * size :]
            for i in range(size):
                from_h[i] += new_bias[i]
                new[i] = tanh(new_x[i] + reset[i] * from_h[i])
            for i in range(size):
                after[i] = new[i] + update[i] * (past[i] - new[i])


@loop
def _gru_retreat(
    weight, decay, hidden, gates, candidate, grad_hidden, grad_h, grad_read, grad_z, grad_x, grad_decay, begin, end
):
    """`grad_h` and `grad_read` hold two parts of the state's gradient: what comes by the update gate, and what comes by
    the product."""
    length, size = len(gates), hidden.shape[2]
    for t in range(length - 1, -1, -1):
        for b in range(begin, end):
            _gru_adjoint(
                gates[t, b], candidate[t, b], hidden[t, b], None if decay is None else decay[t, b],
                grad_hidden[b, t], grad_h[b], grad_read[b], grad_z[b], grad_x[t, b],
            )  # fmt: skip
        product(grad_z[begin:end], weight, grad_read[begin:end])
        if decay is not None:
            for b in range(begin, end):
                for i in range(size):
                    total = grad_h[b, i] + grad_read[b, i]
                    grad_decay[t, b, i] = total * hidden[t, b, i]
                    grad_h[b, i] = total * decay[t, b, i]
                    grad_read[b, i] = 0.0


@loop
def _gru_adjoint(z, new, past, decay, grad, grad_h, grad_read, grad_z, grad_x):
    size = len(past)
    one = type(past[0])(1)
    reset, update, from_h = z[:size], z[size : 2 * size], z[2 * size :]
    reset_x, update_x, new_x = grad_x[:size], grad_x[size : 2 * size], grad_x[2 * size :]
    reset_z, update_z, new_z = grad_z[:size], grad_z[size : 2 * size], grad_z[2 * size :]
    for i in range(size):
        read = past[i]
        if decay is not None:
            read *= decay[i]
        total = grad_h[i] + grad_read[i] + grad[i]
        entered = total * (one - update[i]) * (one - new[i] * new[i])
        grad_reset = entered * from_h[i] * reset[i] * (one - reset[i])
        grad_update = total * (read - new[i]) * update[i] * (one - update[i])
        reset_x[i] = reset_z[i] = grad_reset
        update_x[i] = update_z[i] = grad_update
        new_x[i] = entered
        new_z[i] = entered * reset[i]
        grad_h[i] = total * update[i]


class _Weights(NamedTuple):
    """Of `hippo.kernels.cells.lmu`, but for `write_m`, which may be None: numba drops branches of arguments only."""

    kernel_h: Any
    kernel_m: Any
    A: Any
    B: Any
    write_h: Any


class _LMU(torch.autograd.Function):
    """A and B get no gradients."""

    @staticmethod
    def forward(ctx: Any, recording: bool, *inputs: Any) -> Tensor:
        from_x, written, kernel_h, kernel_m, A, B, write_h, write_m = inputs
        (length, batch, width), size, order = from_x.shape, len(write_h), kernel_m.shape[1]
        steps = length if recording and any(ctx.needs_input_grad) else 2
        (hidden,) = _empty(from_x, (length + 1, batch, size))
        memory, gates = _empty(from_x, (steps, batch, order), (steps, batch, width))
        hidden[0].zero_()
        u, from_h = from_x.new_empty(2, batch), None if kernel_h is None else from_x.new_empty(batch, width)
        turned = _Weights(None if kernel_h is None else kernel_h.mT, kernel_m.mT, A.mT, B, write_h)
        share(_lmu_advance, from_x, written, turned, write_m, hidden, memory, gates, u, from_h, shares=split(batch))
        ctx.save_for_backward(*inputs, hidden, memory, gates)
        return hidden[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, hidden, memory, gates = ctx.saved_tensors
        if _by_reference(grad_hidden):
            return None, *_gradients(naive.lmu, inputs, ctx.needs_input_grad[1:], grad_hidden)
        from_x, _, kernel_h, kernel_m, A, B, write_h, write_m = inputs
        (_, batch, _), order = from_x.shape, kernel_m.shape[1]
        (grad_x,), grad_written = _empty(from_x, from_x.shape), from_x.new_empty(from_x.shape[:2])
        grad_h, grad_m, by_kernel = from_x.new_zeros(batch, len(write_h)), *from_x.new_zeros(2, batch, order)
        from_h = None if kernel_h is None else torch.zeros_like(grad_h)
        weights = _Weights(kernel_h, kernel_m, A, B, write_h)
        arrays = weights, write_m, hidden, memory, gates, grad_hidden
        share(_lmu_retreat, *arrays, grad_h, from_h, grad_m, by_kernel, grad_x, grad_written, shares=split(batch))
        if not any(ctx.needs_input_grad[2:]):
            return None, grad_x, *[None] * 7
        past, entered = hidden[:-1], grad_written.unsqueeze(-1)
        grad_kernel_h = None if kernel_h is None else _product(grad_x, past)
        grad_write_m = None if write_m is None else _product(entered[1:], memory[:-1])[0]
        by_kernels = grad_kernel_h, _product(grad_x, memory)
        return None, grad_x, grad_written, *by_kernels, None, None, _product(entered, past)[0], grad_write_m


@loop
def _lmu_advance(from_x, written, turned, write_m, hidden, memory, gates, u, from_h, begin, end):
    """`turned` are the weights, of matrices the transposes."""
    kernel_h, kernel_m, A, B, write_h = turned
    steps, order, size = len(gates), len(B), hidden.shape[2]
    gated = from_x.shape[2] > size
    for t in range(len(from_x)):
        k, before = t % steps, (t - 1) % steps
        product(hidden[t, begin:end], write_h, u[0, begin:end])
        for b in range(begin, end):
            u[0, b] += written[t, b]
        if t > 0:
            if write_m is not None:
                product(memory[before, begin:end], write_m, u[1, begin:end])
                for b in range(begin, end):
                    u[0, b] += u[1, b]
            product(memory[before, begin:end], A, memory[k, begin:end])
            for b in range(begin, end):
                m, entered = memory[k, b], u[0, b]
                for n in range(order):
                    m[n] += B[n] * entered
        else:
            for b in range(begin, end):
                m, entered = memory[k, b], u[0, b]
                for n in range(order):
                    m[n] = B[n] * entered
        product(memory[k, begin:end], kernel_m, gates[k, begin:end])
        if from_h is not None:
            product(hidden[t, begin:end], kernel_h, from_h[begin:end])
            for b in range(begin, end):
                z, z_h = gates[k, b], from_h[b]
                for i in range(len(z)):
                    z[i] += z_h[i]
        for b in range(begin, end):
            z, z_x, past, after = gates[k, b], from_x[t, b], hidden[t, b], hidden[t + 1, b]
            if gated:
                gate, new, new_x = z[:size], z[size:], z_x[size:]
                for i in range(size):
                    gate[i] = sigmoid(gate[i] + z_x[i])
                for i in range(size):
                    new[i] = tanh(new[i] + new_x[i])
                for i in range(size):
                    after[i] = past[i] + gate[i] * (new[i] - past[i])
            else:
                for i in range(size):
                    z[i] = tanh(z[i] + z_x[i])
                for i in range(size):
                    after[i] = z[i]


@loop
def _lmu_retreat(
    weights, write_m, hidden, memory, gates, grad_hidden,
    grad_h, from_h, grad_m, by_kernel, grad_x, grad_written, begin, end,
):  # fmt: skip
    """`grad_m` is the gradient of the memory after a step, of what comes after that."""
    kernel_h, kernel_m, A, B, write_h = weights
    length, order, size = len(gates), len(B), hidden.shape[2]
    gated = gates.shape[2] > size
    for t in range(length - 1, -1, -1):
        for b in range(begin, end):
            _lmu_adjoint(gates[t, b], hidden[t, b], grad_hidden[b, t], grad_h[b], grad_x[t, b], gated)
        product(grad_x[t, begin:end], kernel_m, by_kernel[begin:end])
        if from_h is not None:
            product(grad_x[t, begin:end], kernel_h, from_h[begin:end])
        for b in range(begin, end):
            for n in range(order):
                by_kernel[b, n] += grad_m[b, n]
        product(by_kernel[begin:end], A, grad_m[begin:end])
        product(by_kernel[begin:end], B, grad_written[t, begin:end])
        for b in range(begin, end):
            entered = grad_written[t, b]
            for i in range(size):
                grad_h[b, i] += write_h[i] * entered
            if from_h is not None:
                for i in range(size):
                    grad_h[b, i] += from_h[b, i]
            if write_m is not None:
                for n in range(order):
                    grad_m[b, n] += write_m[n] * entered


@loop
def _lmu_adjoint(z, past, grad, grad_h, grad_x, gated):
    size = len(past)
    one = type(past[0])(1)
    if gated:
        gate, new, grad_gate, grad_new = z[:size], z[size:], grad_x[:size], grad_x[size:]
        for i in range(size):
            total = grad_h[i] + grad[i]
            grad_gate[i] = (new[i] - past[i]) * total * gate[i] * (one - gate[i])
            grad_new[i] = total * gate[i] * (one - new[i] * new[i])
            grad_h[i] = total * (one - gate[i])
    else:
        for i in range(size):
            grad_x[i] = (grad_h[i] + grad[i]) * (one - z[i] * z[i])
            grad_h[i] = 0.0


def _by_reference(grad_hidden: Tensor) -> bool:
    """Return whether gradients need a graph of their own, or are of a kind that holds no numbers, such as a batched
    one."""
    if torch.is_grad_enabled():
        return True
    try:
        grad_hidden.numpy()
    except (RuntimeError, TypeError):
        return True
    return False


def _gradients(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad_hidden: Tensor
) -> list[Tensor | None]:
    """Return the gradients of the inputs by a loop in tensor operations, which autograd differentiates again."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, for one of the inputs may depend on another, and these gradients are to be apart.
        inputs = [None if value is None else value.view_as(value) for value in inputs]
        wanted: Any = [value for value, wanted in zip(inputs, needed, strict=True) if wanted]
        hidden = reference(*inputs)
        found = iter(
            torch.autograd.grad(hidden.transpose(0, 1), wanted, grad_hidden, create_graph=recorded, allow_unused=True)
        )  # type: ignore[arg-type]
    return [next(found) if wanted else None for wanted in needed]


def _product(grad: Tensor, read: Tensor) -> Tensor:
    """Return the gradient of weights (Z, K), from that of their products (L, B, Z), and what they read (L, B, K)."""
    return grad.flatten(0, 1).mT @ read.flatten(0, 1)


def _empty(like: Tensor, *shapes: Sequence[int]) -> list[Tensor]:
    """Return tensors of any content, cut from one block of memory that is kept for the next sequence."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = buffers.empty(sum(sizes), like).split(sizes)
    return [part.view(*shape) for part, shape in zip(parts, shapes, strict=True)]
