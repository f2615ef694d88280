"""[r, u] = σ(from_x + W h + b), n = tanh(from_x + r (W h + b)), h ↦ n + u (h − n): the gated unit of `torch.nn.GRU`.

Inputs: W (3D, D) and b (3D,), of r, u, n; for GRU-D, what h is multiplied by before each step (L, B, D), or None.
"""

import torch

from hippo.kernels.cells import Cell, like, weight_gradient
from hippo.kernels.common.products import linear, linear_adjoint, sigmoid, tanh, values


def _advance(
    from_x, weight, bias, decay, hidden, kept, read, e,
    product, _, size, width, decayed, batch, length, steps, begin, end,
):  # fmt: skip
    """Of a step are kept: reset gate, update gate, what the reset gate is for, candidate."""
    e, count, zero = values(e), end - begin, e[0] - e[0]
    for t in range(length):
        h, x, k = t * batch * size, t * batch * width, (t % steps) * batch * 4 * size
        for i in range(begin * size, end * size):
            read[i] = hidden[h + i]
        if decayed:
            for i in range(begin * size, end * size):
                read[i] *= decay[h + i]
        linear(
            product, weight, width, size, read, begin * size, size, count,
            zero, kept, k + begin * 4 * size, 4 * size,
        )  # fmt: skip
        for b in range(begin, end):
            row, seen, at = b * size, x + b * width, k + b * 4 * size
            for i in range(2 * size):
                kept[at + i] = sigmoid(kept[at + i] + bias[i] + from_x[seen + i], e)
            for i in range(2 * size, width):
                kept[at + i] += bias[i]
                kept[at + size + i] = tanh(from_x[seen + i] + kept[at - 2 * size + i] * kept[at + i], e)
            for i in range(size):
                update, candidate = kept[at + size + i], kept[at + width + i]
                hidden[h + batch * size + row + i] = candidate + update * (read[row + i] - candidate)


def _retreat(
    weight, bias, decay, hidden, kept, grad_h, scratch, grad_x, grad_decay, e,
    product, _, size, width, decayed, batch, bottom, top, begin, end,
):  # fmt: skip
    one, count, grad_z = e[0], end - begin, batch * size  # where in `scratch` that is; the gradient of h comes first
    for back in range(top - bottom + 1):
        t = top - back
        h, x, k = t * batch * size, t * batch * width, t * batch * 4 * size
        for b in range(begin, end):
            row, at, to, z = b * size, k + b * 4 * size, x + b * width, grad_z + b * width
            for i in range(size):
                past = hidden[h + row + i]
                if decayed:
                    past *= decay[h + row + i]
                reset, update, there = kept[at + i], kept[at + size + i], kept[at + 2 * size + i]
                candidate, total = kept[at + width + i], grad_h[row + i]
                entered = total * (one - update) * (one - candidate * candidate)
                grad_reset = entered * there * reset * (one - reset)
                grad_update = total * (past - candidate) * update * (one - update)
                grad_x[to + i] = scratch[z + i] = grad_reset
                grad_x[to + size + i] = scratch[z + size + i] = grad_update
                grad_x[to + 2 * size + i] = entered
                scratch[z + 2 * size + i] = entered * reset
                scratch[row + i] = total * update
        linear_adjoint(
            product, weight, width, size, scratch, grad_z + begin * width, width, count,
            one, scratch, begin * size, size,
        )  # fmt: skip
        for i in range(begin * size, end * size):
            grad_h[i] = scratch[i]
        if decayed:
            for i in range(begin * size, end * size):
                grad_decay[h + i] = scratch[i] * hidden[h + i]
                grad_h[i] *= decay[h + i]


def _gradients(inputs, hidden, kept, filled):
    (_, _, decay), (grad_x, grad_decay), past = inputs, filled, hidden[:-1]
    read, size = past if decay is None else past * decay, past.shape[-1]
    gates, candidate = grad_x[..., : 2 * size], grad_x[..., 2 * size :] * kept[..., :size]
    weight = torch.cat([weight_gradient(gates, read), weight_gradient(candidate, read)])
    bias = torch.cat([gates.sum((0, 1)), candidate.sum((0, 1))])
    return weight, bias, None if decay is None else grad_decay


GRU_CELL = Cell(
    _advance,
    _retreat,
    sizes=lambda weight, bias, decay: (weight.shape[1], len(weight), int(decay is not None)),
    kept=lambda size, *_: 4 * size,
    scratch=lambda size, *_: 4 * size,
    filled=lambda from_x, weight, bias, decay: like(from_x, from_x[:0] if decay is None else decay),
    gradients=_gradients,
)
