"""φ = relu(from_x + V relu(W u + b)), u ↦ u + wave_t ⊗ φ: the Fourier recurrent unit, whose states are averages u.

Inputs: wave (L, F); W (R, F S), b (R,) and V (S, R). Z is S, D is F S.
"""

from hippo.kernels.cells import Cell, like, weight_gradient
from hippo.kernels.common.products import linear, linear_adjoint


def _advance(
    from_x, wave, recall, bias, statistic, hidden, kept, scratch, e,
    product, _, size, width, recalled, waves, batch, length, steps, begin, end,
):  # fmt: skip
    """Of a step are kept: relu(W u + b), φ."""
    count, zero, row_kept = end - begin, e[0] - e[0], recalled + width
    for t in range(length):
        h, x, k = t * batch * size, t * batch * width, (t % steps) * batch * row_kept
        first = k + begin * row_kept
        linear(
            product, recall, recalled, size, hidden, h + begin * size, size, count, zero, kept, first, row_kept
        )  # fmt: skip
        for b in range(begin, end):
            for i in range(recalled):
                z = kept[k + b * row_kept + i] + bias[i]
                kept[k + b * row_kept + i] = zero if z < zero else z
        linear(
            product, statistic, width, recalled, kept, first, row_kept, count,
            zero, kept, first + recalled, row_kept,
        )  # fmt: skip
        for b in range(begin, end):
            row, at = h + b * size, k + b * row_kept + recalled
            for i in range(width):
                z = kept[at + i] + from_x[x + b * width + i]
                kept[at + i] = zero if z < zero else z
            for f in range(waves):
                height = wave[t * waves + f]
                for i in range(f * width, (f + 1) * width):
                    hidden[row + batch * size + i] = hidden[row + i] + height * kept[at + i - f * width]


def _retreat(
    wave, recall, bias, statistic, hidden, kept, grad_u, scratch, grad_x, grad_recalled, grad_wave, e,
    product, _, size, width, recalled, waves, batch, bottom, top, begin, end,
):  # fmt: skip
    one, count, row_kept = e[0], end - begin, recalled + width
    zero = one - one
    for back in range(top - bottom + 1):
        t = top - back
        x, r, k = t * batch * width, t * batch * recalled, t * batch * row_kept
        for b in range(begin, end):
            at, to = k + b * row_kept + recalled, x + b * width
            for i in range(width):
                grad_x[to + i] = zero
            for f in range(waves):
                height, total, row = wave[t * waves + f], zero, b * size + f * width
                for i in range(width):
                    grad_x[to + i] += height * grad_u[row + i]
                    total += grad_u[row + i] * kept[at + i]
                grad_wave[(t * batch + b) * waves + f] = total
            for i in range(width):
                grad_x[to + i] = grad_x[to + i] if kept[at + i] > zero else zero
        linear_adjoint(
            product, statistic, width, recalled, grad_x, x + begin * width, width, count,
            zero, grad_recalled, r + begin * recalled, recalled,
        )  # fmt: skip
        for b in range(begin, end):
            for i in range(recalled):
                to = r + b * recalled + i
                grad_recalled[to] = grad_recalled[to] if kept[k + b * row_kept + i] > zero else zero
        linear_adjoint(
            product, recall, recalled, size, grad_recalled, r + begin * recalled, recalled, count,
            one, grad_u, begin * size, size,
        )  # fmt: skip


def _gradients(inputs, hidden, kept, filled):
    grad_x, grad_recalled, grad_wave = filled
    recall, bias = weight_gradient(grad_recalled, hidden[:-1]), grad_recalled.sum((0, 1))
    return grad_wave.sum(1), recall, bias, weight_gradient(grad_x, kept[..., : len(bias)])


FRU_CELL = Cell(
    _advance,
    _retreat,
    sizes=lambda wave, recall, bias, statistic: (recall.shape[1], *statistic.shape, wave.shape[1]),
    kept=lambda size, width, recalled, waves: recalled + width,
    scratch=lambda *_: 0,
    filled=lambda from_x, wave, recall, bias, statistic: [
        *like(from_x),
        from_x.new_empty(*from_x.shape[:2], len(recall)),
        from_x.new_empty(*from_x.shape[:2], wave.shape[1]),
    ],
    gradients=_gradients,
)
