"""What one step of the gated network does beside its matrix product, as a Triton kernel each.

`enter`, `gate` and `gate_adjoint` are those of `hippo.kernels.gated.steps`; `advance` and `retreat` are the LegS step
of `hippo.kernels.legs.naive.legs_step` and its adjoint. Both run over the orders, W_{n+1} = m_n W_n + a_n: maps of
a number, whose composition is associative, so that a scan over the orders computes all W_n at once.

This module imports triton: go through `hippo.kernels.legs.gpu.kernels`, which knows where it can be had.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 1024, 4  # orders that are scanned at once, and samples; more orders are taken block by block
FLAT = 512  # numbers that a program of an elementwise kernel takes
_VECTORS = ["step", "u", "written", "write"]  # too short for their alignment to be worth a kernel of its own


def advance(c: Tensor, step: Tensor, u: Tensor, alpha: float, target: Tensor) -> None:
    """Write the LegS coefficients after c (N, B), with relative steps (B,) and input u (B,), to `target`."""
    _over_columns(_advance, c, target, step, u, *c.stride(), *target.stride(), *c.shape, alpha)


def retreat(grad: Tensor, step: Tensor, u: Tensor, alpha: float, target: Tensor) -> None:
    """Write the gradient of c to `target`, and that of the input to u, from that of the next coefficients (N, B)."""
    _over_columns(_retreat, grad, target, step, u, *grad.stride(), *target.stride(), *grad.shape, alpha)


def enter(x: Tensor, h: Tensor, written: Tensor, write: Tensor, u: Tensor, seen_x: Tensor) -> None:
    """`hippo.kernels.gated.steps.enter`."""
    x = x.contiguous()
    _over_columns(_enter, h.mT, x, written, write, u, seen_x, *seen_x.stride(), x.shape[1], *h.mT.shape)


def gate(z: Tensor, h: Tensor, target: Tensor) -> None:
    """`hippo.kernels.gated.steps.gate`."""
    _over_numbers(_gate, h, z, target, *h.shape)


def gate_adjoint(
    gates: Tensor, h: Tensor, write: Tensor, u: Tensor | None, grad: Tensor | None, grad_h: Tensor, grad_z: Tensor
) -> None:
    """`hippo.kernels.gated.steps.gate_adjoint`."""
    grad = None if grad is None else grad.contiguous()
    _over_numbers(_gate_adjoint, h, gates, write, u, grad, grad_h, grad_z, *h.shape)


def _over_columns(kernel: Any, first: Tensor, *others: Any) -> None:
    """Start a kernel whose programs take whole columns of its first array."""
    rows, batch = first.shape
    kernel[(triton.cdiv(batch, COLUMNS),)](first, *others, min(triton.next_power_of_2(rows), ROWS), COLUMNS)


def _over_numbers(kernel: Any, first: Tensor, *others: Any) -> None:
    kernel[(triton.cdiv(first.numel(), FLAT),)](first, *others, FLAT)


def works(device: torch.device) -> bool:
    """Return whether a kernel can be built and run there: that takes a C compiler, and a GPU that Triton knows."""
    try:
        with torch.inference_mode(False), torch.cuda.device(device if device.type == "cuda" else -1):
            c, step = torch.ones(1, 1, device=device), torch.ones(1, device=device)
            advance(c, step, step, 0.5, torch.empty_like(c))
    except Exception:  # Triton has no one error for what it lacks
        return False
    return True


@triton.jit
def _then(m, a, m_next, a_next):
    return m_next * m, m_next * a + a_next


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _advance(
    c, y, step, u, c_row, c_column, y_row, y_column, order, batch,
    alpha: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    local = tl.arange(0, ROWS)[:, None]
    d = tl.load(step + column, column < batch, 0.0)
    f = tl.load(u + column, column < batch, 0.0)
    carried = tl.zeros_like(d)
    for start in range(0, order, ROWS):
        row = start + local
        here, at = (row < order) & (column < batch), row * c_row + column * c_column
        n = row.to(d.dtype)
        x = tl.load(c + at, here, 0.0)
        moved = tl.where(row == 0, x - f, x)
        # A row needs the sum before it, so it scans the map of the row below: that of n - 1, which is 0 for n = 0.
        below = tl.load(c + at - c_row, here & (row > 0), 0.0)
        below = tl.where(row == 1, below - f, below)
        solve = 1.0 / (1.0 + alpha * d * n)
        multiplier = (1.0 - alpha * d * (n - 1.0)) * solve
        addend = d * tl.sqrt(tl.maximum(2.0 * n - 1.0, 0.0)) * below * solve
        through, added = tl.associative_scan((multiplier, addend), 0, _then)
        W = through * carried + added
        change = (d * (n + 1.0) * moved + tl.sqrt(2.0 * n + 1.0) * W) / (1.0 + alpha * d * (n + 1.0))
        tl.store(y + row * y_row + column * y_column, x - change, here)
        carried = tl.sum(tl.where(local == ROWS - 1, W, 0.0), 0, keep_dims=True)


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _retreat(
    grad, before, step, u, grad_row, grad_column, before_row, before_column, order, batch,
    alpha: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    local = tl.arange(0, ROWS)[:, None]
    d = tl.load(step + column, column < batch, 0.0)
    carried = tl.zeros_like(d)
    for start in range(0, order, ROWS):
        row = order - 1 - start - local  # counted down, since a scan in reverse has to turn its rows round
        here, at = (row >= 0) & (column < batch), row * grad_row + column * grad_column
        n = tl.maximum(row, 0).to(d.dtype)
        x = tl.load(grad + at, here, 0.0)
        above = tl.load(grad + at + grad_row, here & (row + 1 < order), 0.0)
        solve = 1.0 / (1.0 + alpha * d * (n + 2.0))
        multiplier = (1.0 - alpha * d * (n + 1.0)) * solve
        addend = -tl.sqrt(2.0 * n + 3.0) * above * solve
        through, added = tl.associative_scan((multiplier, addend), 0, _then)
        V = through * carried + added
        change = d * ((n + 1.0) * x - tl.sqrt(2.0 * n + 1.0) * V) / (1.0 + alpha * d * (n + 1.0))
        tl.store(before + row * before_row + column * before_column, x - change, here)
        tl.store(u + column + tl.zeros_like(row), change, here & (row == 0))
        carried = tl.sum(tl.where(local == ROWS - 1, V, 0.0), 0, keep_dims=True)


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _enter(
    h, x, written, write, u, seen_x, seen_row, seen_column, channels, size, batch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.load(written + column, column < batch, 0.0)
    for start in range(0, size, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        weight = tl.load(write + row, row < size, 0.0)
        part = tl.load(h + row + column * size, (row < size) & (column < batch), 0.0)
        total += tl.sum(weight * part, 0, keep_dims=True)
    tl.store(u + column, total, column < batch)
    for k in range(channels):
        given = tl.load(x + k + column * channels, column < batch, 0.0)
        tl.store(seen_x + column * seen_row + k * seen_column, given, column < batch)


@triton.jit
def _gate(h, z, target, batch, size, FLAT: tl.constexpr):
    at = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    here = at < batch * size
    first = at + at // size * size  # of the two numbers of a row of z
    g = _sigmoid(tl.load(z + first, here, 0.0))
    candidate = 2.0 * _sigmoid(2.0 * tl.load(z + first + size, here, 0.0)) - 1.0
    before = tl.load(h + at, here, 0.0)
    tl.store(z + first, g, here)
    tl.store(z + first + size, candidate, here)
    tl.store(target + at, before + g * (candidate - before), here)


@triton.jit(do_not_specialize_on_alignment=_VECTORS)
def _gate_adjoint(h, gates, write, u, grad, grad_h, grad_z, batch, size, FLAT: tl.constexpr):
    at = tl.program_id(0) * FLAT + tl.arange(0, FLAT)
    here = at < batch * size
    first = at + at // size * size
    total = tl.load(grad_h + at, here, 0.0)
    if u is not None:
        total += tl.load(write + at % size, here, 0.0) * tl.load(u + at // size, here, 0.0)
    if grad is not None:
        total += tl.load(grad + at, here, 0.0)
    g = tl.load(gates + first, here, 0.0)
    candidate = tl.load(gates + first + size, here, 0.0)
    passed = total * g
    tl.store(grad_z + first, (candidate - tl.load(h + at, here, 0.0)) * passed * (1.0 - g), here)
    tl.store(grad_z + first + size, passed * (1.0 - candidate * candidate), here)
    tl.store(grad_h + at, total - passed, here)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))
