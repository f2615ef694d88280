"""u = written + e_h · h + e_m · m, m ↦ A m + B u, z = from_x + W_h h + W_m m, h ↦ tanh(z): the Legendre memory unit.

With a gate, z = [g, c], h ↦ h + σ(g) (tanh(c) − h). With it, and without e_m and W_h, it is the HiPPO network.

Inputs: written (L, B); W_h (Z, D) or None, and W_m (Z, N), Z being D, or 2D with a gate; A (N, N) and B (N,), which get
no gradients; e_h (D,); e_m (N,), or None where W_h is.
"""

from hippo.kernels.cells import Cell, like, weight_gradient
from hippo.kernels.common.products import linear, linear_adjoint, sigmoid, tanh, values


def _advance(
    from_x, written, read_h, read_m, A, B, write_h, write_m, hidden, kept, u, e,
    product, _, size, width, order, whole, batch, length, steps, begin, end,
):  # fmt: skip
    """Of a step are kept: m, and h or [σ(g), tanh(c)]."""
    e, count, row_kept = values(e), end - begin, order + width
    one = e[0]
    zero = one - one
    for t in range(length):
        h, x, k = t * batch * size, t * batch * width, (t % steps) * batch * row_kept
        first, past = k + begin * row_kept, (((t - 1) % steps) * batch + begin) * row_kept
        for b in range(begin, end):
            u[b] = written[t * batch + b]
        linear(product, write_h, 1, size, hidden, h + begin * size, size, count, one, u, begin, 1)
        if t > 0:
            if whole:
                linear(product, write_m, 1, order, kept, past, row_kept, count, one, u, begin, 1)
            linear(product, A, order, order, kept, past, row_kept, count, zero, kept, first, row_kept)
        for b in range(begin, end):
            at, entered = k + b * row_kept, u[b]
            for n in range(order):
                moved = kept[at + n] if t > 0 else zero
                kept[at + n] = moved + B[n] * entered
        linear(product, read_m, width, order, kept, first, row_kept, count, zero, kept, first + order, row_kept)
        if whole:
            linear(
                product, read_h, width, size, hidden, h + begin * size, size, count,
                one, kept, first + order, row_kept,
            )  # fmt: skip
        for b in range(begin, end):
            row, at, seen = h + b * size, k + b * row_kept + order, x + b * width
            for i in range(width - size):
                kept[at + i] = sigmoid(kept[at + i] + from_x[seen + i], e)
            for i in range(width - size, width):
                kept[at + i] = tanh(kept[at + i] + from_x[seen + i], e)
            if width == size:
                for i in range(size):
                    hidden[row + batch * size + i] = kept[at + i]
            else:
                for i in range(size):
                    before = hidden[row + i]
                    hidden[row + batch * size + i] = before + kept[at + i] * (kept[at + size + i] - before)


def _retreat(
    written, read_h, read_m, A, B, write_h, write_m, hidden, kept, grad_h, grad_m, grad_x, grad_written, e,
    product, _, size, width, order, whole, batch, bottom, top, begin, end,
):  # fmt: skip
    """`grad_m` has room for two steps."""
    one, count, row_kept = e[0], end - begin, order + width
    zero = one - one
    for back in range(top - bottom + 1):
        t = top - back
        h, x, k = t * batch * size, t * batch * width, t * batch * row_kept
        m, before = (t % 2) * batch * order, (1 - t % 2) * batch * order
        for b in range(begin, end):
            row, at, to = b * size, k + b * row_kept + order, x + b * width
            if width == size:
                for i in range(size):
                    grad_x[to + i] = grad_h[row + i] * (one - kept[at + i] * kept[at + i])
                    grad_h[row + i] = zero
            else:
                for i in range(size):
                    g, new, total = kept[at + i], kept[at + size + i], grad_h[row + i]
                    grad_x[to + i] = (new - hidden[h + row + i]) * total * g * (one - g)
                    grad_x[to + size + i] = total * g * (one - new * new)
                    grad_h[row + i] = total * (one - g)
        if whole:
            linear_adjoint(
                product, read_h, width, size, grad_x, x + begin * width, width, count, one, grad_h, begin * size, size
            )
        linear_adjoint(
            product, read_m, width, order, grad_x, x + begin * width, width, count,
            one, grad_m, m + begin * order, order,
        )  # fmt: skip
        if t > 0:
            linear_adjoint(
                product, A, order, order, grad_m, m + begin * order, order, count,
                zero, grad_m, before + begin * order, order,
            )  # fmt: skip
        for b in range(begin, end):
            entered = zero
            for n in range(order):
                entered += B[n] * grad_m[m + b * order + n]
            grad_written[t * batch + b] = entered
            if whole:
                for n in range(order):
                    grad_m[before + b * order + n] += write_m[n] * entered
            for i in range(size):
                grad_h[b * size + i] += write_h[i] * entered


def _gradients(inputs, hidden, kept, filled):
    (_, read_h, read_m, *_), (grad_x, grad_written), past = inputs, filled, hidden[:-1]
    m, entered = kept[..., : read_m.shape[1]], grad_written.unsqueeze(-1)
    into_h = write_m = None
    if read_h is not None:
        into_h, write_m = weight_gradient(grad_x, past), weight_gradient(entered[1:], m[:-1])[0]
    return grad_written, into_h, weight_gradient(grad_x, m), None, None, weight_gradient(entered, past)[0], write_m


LMU_CELL = Cell(
    _advance,
    _retreat,
    sizes=lambda written, read_h, read_m, A, B, write_h, write_m: (
        len(write_h),
        *read_m.shape,
        int(write_m is not None),
    ),
    kept=lambda size, width, order, whole: order + width,
    scratch=lambda size, width, order, whole: 2 * order,
    filled=lambda from_x, written, *_: like(from_x, written),
    gradients=_gradients,
)
