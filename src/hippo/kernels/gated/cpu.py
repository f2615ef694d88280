"""The gated network with a LegS memory over a whole sequence as one compiled loop for the CPU.

It computes what the loops in `hippo.kernels.gated` do, with the same matrix products (`hippo.kernels.common.products`).
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hippo.kernels.common import compile as jit
from hippo.kernels.common import products
from hippo.kernels.common.products import gemm, linear, linear_adjoint, sigmoid, tanh, values
from hippo.kernels.legs.cpu import Sweeps, numbers

if TYPE_CHECKING:
    from hippo.kernels.gated import Inputs, Kept, Operators

_SPAN = 8  # steps whose products for the gradient of the weights are done as one


@jit.opaque
def serves(inputs: "Inputs", operators: "Operators") -> bool:
    """Return whether this loop can be had for a sequence, and is made for it."""
    if type(operators) is not Sweeps or not all(map(jit.serves, inputs)) or products.library() is None:
        return False
    (length, batch, _), step = inputs.x.shape, operators.step
    alike = {value.dtype for value in (*inputs, step)} == {inputs.x.dtype}
    return alike and step.shape == (length - 1, batch) and step.is_contiguous()


@jit.opaque
def forward(inputs: "Inputs", operators: Sweeps, kept: "Kept") -> Tensor:
    """Fill `kept`, and return the number of threads, (). What a step reads stands in it thread by thread, (L or 2, B,
    R) each, so that steps can be read as one matrix."""
    (x, weight, written, write), (seen, gates, hidden) = (v.contiguous() for v in inputs), kept
    (length, batch, channels), (doubled, rows), order = x.shape, weight.shape, operators.order
    hidden[0].zero_()
    room, c = x.new_empty(2, batch), x.new_zeros(order, batch)
    threads = products.threads(batch)
    arrays = [seen, gates, hidden, x, written, write, weight, operators.step, room, c]
    arrays += [*numbers(order, x.dtype), products.constants(x.dtype)]
    sizes = order, channels, rows, doubled // 2, batch, length, len(gates)
    products.share(_advance, arrays, [], operators.alpha, sizes, products.shares(batch, threads))
    return torch.tensor(threads, device="cpu")


@jit.opaque
def backward(
    inputs: "Inputs", operators: Sweeps, kept: "Kept", threads: Tensor, grad_hidden: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Return the gradients of the inputs from those of the L states, None where there is none."""
    (x, weight, _, write), (seen, gates, hidden) = ((v.contiguous() for v in given) for given in (inputs, kept))
    (length, batch, channels), (doubled, rows), order = x.shape, weight.shape, operators.order
    size, shares = doubled // 2, products.shares(batch, int(threads))
    grad_x, grad_written = torch.zeros_like(x), x.new_zeros(length, batch)
    grad_h, grad_c, grad_u = x.new_zeros(batch, size), x.new_zeros(order, batch), x.new_zeros(2, batch)
    own = [weight.new_zeros(len(shares), doubled, rows), write.new_zeros(len(shares), size)]
    arrays = [seen, gates, hidden, write, weight, operators.step, grad_u, *numbers(order, x.dtype)]
    arrays += [grad_h, x.new_empty(_SPAN, batch, doubled), grad_c, x.new_empty(batch, rows), grad_x, grad_written]
    tops = [t for t, grad in enumerate(grad_hidden) if grad is not None]
    for top, below in itertools.pairwise([*tops[::-1], -1]):
        grad_h += grad_hidden[top]  # type: ignore[operator]
        sizes = order, channels, rows, size, batch, length, _SPAN, below + 1, top
        products.share(_retreat, arrays, own, operators.alpha, sizes, shares)
    grad_weight, grad_write = (v.sum(0) for v in own)
    return grad_x, grad_weight, grad_written, grad_write


def _advance(
    seen, gates, hidden, x, written, write, weight, step, room, c, k, s, e,
    product, alpha, order, channels, rows, size, batch, length, kept, begin, end,
):  # fmt: skip
    """All steps for the samples from `begin` to `end`. `room` holds u, and what is carried from order to order; c, the
    coefficients (N, B)."""
    zero, one, count, constants = k[0], k[1], end - begin, values(e)
    for t in range(length):
        h, now, here = t * batch * size, t * batch, (kept * begin + (t % kept) * count - begin) * rows
        for b in range(begin, end):
            room[b] = written[now + b]
        gemm(
            product, 84, 78, count, 1, size, hidden, h + begin * size, size,
            write, 0, size, one, room, begin, batch,
        )  # fmt: skip
        if t == 0:
            for b in range(begin, end):
                c[b] = room[b]
        else:
            for b in range(begin, end):
                y, d = c[b], step[now - batch + b]
                w = d * (y - room[b]) / (one + alpha * d)
                c[b] = y - w
                room[batch + b] = w
            for n in range(1, order):
                low, above, root, row = k[n], k[n + 1], s[n], n * batch
                for b in range(begin, end):
                    y, d, w = c[row + b], step[now - batch + b], room[batch + b]
                    solve = one / (one + alpha * d * above)
                    c[row + b] = y - (d * above * y + root * w) * solve
                    room[batch + b] = ((one - alpha * d * low) * w + d * root * y) * solve
        for block in range(0, order, 16):  # whole cache lines
            for b in range(begin, end):
                for n in range(block, min(block + 16, order)):
                    seen[here + b * rows + n] = c[n * batch + b]
        for b in range(begin, end):
            for i in range(order, rows):
                seen[here + b * rows + i] = zero
            for i in range(channels):
                seen[here + b * rows + order + i] = x[(now + b) * channels + i]
            seen[here + b * rows + order + channels] = one

        z = (t % kept) * batch * 2 * size
        linear(
            product, weight, 2 * size, rows, seen, here + begin * rows, rows, count,
            zero, gates, z + begin * 2 * size, 2 * size,
        )  # fmt: skip
        for b in range(begin, end):
            row, start = h + b * size, z + b * 2 * size
            for i in range(size):
                gates[start + i] = sigmoid(gates[start + i], constants)
            for i in range(start + size, start + 2 * size):
                gates[i] = tanh(gates[i], constants)
            for i in range(size):
                g, candidate, past = gates[start + i], gates[start + size + i], hidden[row + i]
                hidden[row + batch * size + i] = past + g * (candidate - past)


def _retreat(
    seen, gates, hidden, write, weight, step, room, k, s, grad_h, grad_z, grad_c, grad_seen, grad_x, grad_written,
    grad_weight, grad_write,
    product, alpha, order, channels, rows, size, batch, length, span, bottom, top, begin, end,
):  # fmt: skip
    """The steps from `top` down to `bottom`. `room` holds u's gradient, and what is carried from order to order."""
    zero, one, count = k[0], k[1], end - begin
    for back in range(top - bottom + 1):
        t = top - back
        h, now, z, past = t * batch * size, t * batch, t * batch * 2 * size, t % span
        first = (span * begin + past * count) * 2 * size
        for b in range(begin, end):
            row, at, to, entered = b * size, z + b * 2 * size, first + (b - begin) * 2 * size, room[b]
            for i in range(size):
                g, candidate = gates[at + i], gates[at + size + i]
                total = grad_h[row + i] + write[i] * entered
                passed = total * g
                grad_z[to + i] = (candidate - hidden[h + row + i]) * passed * (one - g)
                grad_z[to + size + i] = passed * (one - candidate * candidate)
                grad_h[row + i] = total - passed
        if past == 0 or t == bottom:
            steps = min(span - past, top - t + 1)
            gemm(
                product, 78, 84, rows, 2 * size, steps * count, seen, (length * begin + t * count) * rows, rows,
                grad_z, first, 2 * size, one, grad_weight, 0, rows,
            )  # fmt: skip
        linear_adjoint(
            product, weight, 2 * size, rows, grad_z, first, 2 * size, count, zero, grad_seen, begin * rows, rows
        )

        for b in range(begin, end):
            room[batch + b] = zero
        for down in range(1, order + 1):
            n = int(k[order - down])  # read, not counted down: LLVM does not vectorise rows whose addresses descend
            for b in range(begin, end):
                grad_c[n * batch + b] += grad_seen[b * rows + n]
            if t > 0 and n > 0:
                low, high, root, row = k[n], k[n + 1], s[n], n * batch
                for b in range(begin, end):
                    c, d, v = grad_c[row + b], step[now - batch + b], room[batch + b]
                    solve = one / (one + alpha * d * high)
                    grad_c[row + b] = c - d * (high * c - root * v) * solve
                    room[batch + b] = ((one - alpha * d * low) * v - root * c) * solve
        for b in range(begin, end):
            moved = grad_c[b]
            if t > 0:
                c, d = grad_c[b], step[now - batch + b]
                moved = d * (c - room[batch + b]) / (one + alpha * d)
                grad_c[b] = c - moved
            room[b] = moved
            grad_written[now + b] = moved
        for b in range(begin, end):
            for channel in range(channels):
                grad_x[(now + b) * channels + channel] = grad_seen[b * rows + order + channel]
            entered = room[b]
            for i in range(size):
                grad_write[i] += entered * hidden[h + b * size + i]
