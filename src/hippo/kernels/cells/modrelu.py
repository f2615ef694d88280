"""z = from_x + W h, h ↦ sign(z) max(|z| + b, 0): a linear recurrence behind a modReLU.

Inputs: W (D, D) and b (D,). What is active can be seen from the states, so nothing else is kept.
"""

from hippo.kernels.cells import Cell, like, weight_gradient
from hippo.kernels.common.products import linear, linear_adjoint


def _advance(
    from_x, weight, threshold, hidden, kept, scratch, e,
    product, _, size, width, batch, length, steps, begin, end,
):  # fmt: skip
    count, zero = end - begin, e[0] - e[0]
    for t in range(length):
        h, after = t * batch * size, (t + 1) * batch * size
        linear(
            product, weight, size, size, hidden, h + begin * size, size, count,
            zero, hidden, after + begin * size, size,
        )  # fmt: skip
        for b in range(begin, end):
            row = b * size
            for i in range(size):
                z = hidden[after + row + i] + from_x[h + row + i]
                positive, negative = z + threshold[i], z - threshold[i]
                positive = positive if z > zero and positive > zero else zero
                negative = negative if z < zero and negative < zero else zero
                hidden[after + row + i] = positive + negative if z == z else z  # NaN


def _retreat(
    weight, threshold, hidden, kept, grad_h, scratch, grad_x, e,
    product, _, size, width, batch, bottom, top, begin, end,
):  # fmt: skip
    count, zero = end - begin, e[0] - e[0]
    for back in range(top - bottom + 1):
        t = top - back
        h, after = t * batch * size, (t + 1) * batch * size
        for i in range(begin * size, end * size):
            grad_x[h + i] = grad_h[i] if hidden[after + i] != zero else zero
        linear_adjoint(
            product, weight, size, size, grad_x, h + begin * size, size, count, zero, grad_h, begin * size, size
        )


def _gradients(inputs, hidden, kept, filled):
    return weight_gradient(filled[0], hidden[:-1]), (hidden[1:].sign() * filled[0]).sum((0, 1))


MODRELU_CELL = Cell(
    _advance,
    _retreat,
    sizes=lambda weight, threshold: (len(weight), len(weight)),
    kept=lambda *_: 0,
    scratch=lambda *_: 0,
    filled=lambda from_x, *_: like(from_x),
    gradients=_gradients,
)
