"""f = σ(from_x + V h), h ↦ h + f (tanh(from_x + W (f h)) − h): the minimal gated unit.

Inputs: V and W, (D, D).
"""

from hippo.kernels.cells import Cell, like, weight_gradient
from hippo.kernels.common.products import linear, linear_adjoint, sigmoid, tanh, values


def _advance(
    from_x, forget, candidate, hidden, kept, scratch, e,
    product, _, size, width, batch, length, steps, begin, end,
):  # fmt: skip
    """Of a step are kept: gate, candidate, and what that has read."""
    e, count, zero, row_kept = values(e), end - begin, e[0] - e[0], 3 * size
    for t in range(length):
        h, x, k = t * batch * size, t * batch * width, (t % steps) * batch * row_kept
        first = k + begin * row_kept
        linear(
            product, forget, size, size, hidden, h + begin * size, size, count, zero, kept, first, row_kept
        )  # fmt: skip
        for b in range(begin, end):
            row, seen, at = h + b * size, x + b * width, k + b * row_kept
            for i in range(size):
                kept[at + i] = sigmoid(kept[at + i] + from_x[seen + i], e)
                kept[at + width + i] = kept[at + i] * hidden[row + i]
        linear(
            product, candidate, size, size, kept, first + width, row_kept, count, zero, kept, first + size, row_kept
        )  # fmt: skip
        for b in range(begin, end):
            row, seen, at = h + b * size, x + b * width, k + b * row_kept
            for i in range(size, width):
                kept[at + i] = tanh(kept[at + i] + from_x[seen + i], e)
            for i in range(size):
                past = hidden[row + i]
                hidden[row + batch * size + i] = past + kept[at + i] * (kept[at + size + i] - past)


def _retreat(
    forget, candidate, hidden, kept, grad_h, scratch, grad_x, e,
    product, _, size, width, batch, bottom, top, begin, end,
):  # fmt: skip
    one, count = e[0], end - begin
    zero = one - one
    for back in range(top - bottom + 1):
        t = top - back
        h, x, k = t * batch * size, t * batch * width, t * batch * 3 * size
        for b in range(begin, end):
            row, at, to = b * size, k + b * 3 * size, x + b * width
            for i in range(size):
                f, new, total = kept[at + i], kept[at + size + i], grad_h[row + i]
                grad_x[to + i] = (new - hidden[h + row + i]) * total
                grad_x[to + size + i] = f * total * (one - new * new)
                grad_h[row + i] = total * (one - f)
        linear_adjoint(
            product, candidate, size, size, grad_x, x + begin * width + size, width, count,
            zero, scratch, begin * size, size,
        )  # fmt: skip
        for b in range(begin, end):
            row, at, to = b * size, k + b * 3 * size, x + b * width
            for i in range(size):
                f, read = kept[at + i], scratch[row + i]
                grad_x[to + i] = (grad_x[to + i] + read * hidden[h + row + i]) * f * (one - f)
                grad_h[row + i] += read * f
        linear_adjoint(
            product, forget, size, size, grad_x, x + begin * width, width, count, one, grad_h, begin * size, size
        )


def _gradients(inputs, hidden, kept, filled):
    gate, candidate = filled[0].chunk(2, dim=-1)
    return weight_gradient(gate, hidden[:-1]), weight_gradient(candidate, kept[..., filled[0].shape[-1] :])


MGU_CELL = Cell(
    _advance,
    _retreat,
    sizes=lambda forget, candidate: (len(forget), 2 * len(forget)),
    kept=lambda size, *_: 3 * size,
    scratch=lambda size, *_: size,
    filled=lambda from_x, *_: like(from_x),
    gradients=_gradients,
)
