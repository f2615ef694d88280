"""The LegS step of `hippo.kernels.legs.naive.legs_step` and its adjoint, for GPUs, by Triton.

Both run over the orders n with a running sum W. At each order W ↦ m_n W + a_n, and the coefficient changes by
q_n W + r_n. Such pairs of maps are associative, so one scan has all orders at once, and no order looks at another's.

Each sample may have a step of its own, and nothing is kept for the gradient. Programs take whole samples, so none waits
for another. This module imports triton: ask `hippo.kernels.common.gpus.serves` first.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 1024  # orders that are scanned at once; more are taken block by block
COLUMNS = 1  # samples of a program


def advance(
    c: Tensor,
    step: Tensor,
    u: Tensor,
    alpha: float,
    target: Tensor,
    power: float = 0.0,
    shape: dict[str, int] | None = None,
) -> None:
    """Write the coefficients (B, N) after c (B, N), with relative steps (B,) and input u (B,), to `target`, which may
    be c. Rows may be apart. `shape` is that of `launch_shape` where there is none, for measurements.

    Raises:
        ValueError: If shapes, dtypes or devices disagree, or step or u is not contiguous; so does `retreat`.
    """
    _step_once(c, step, u, alpha, power, target, adjoint=False, shape=shape)


def retreat(grad: Tensor, step: Tensor, u: Tensor, alpha: float, target: Tensor, power: float = 0.0) -> None:
    """Write the gradient of c to `target`, and that of the input to u, from that of the next coefficients (B, N)."""
    _step_once(grad, step, u, alpha, power, target, adjoint=True)


def sequence(c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float = 0.0) -> Tensor:
    """Advance coefficients by a sequence of samples, each with a step of its own, in one kernel.

    Gradients of any order reach c and f, and need no memory.

    Args:
        c: Coefficients (B, N), of which `hippo.kernels.common.gpus.serves` is true.
        f: Samples (B, L), like c in dtype and device.
        step: Relative steps dt/t, (L, B) or (L, 1).
        alpha: Weight of the implicit side.
        every: Whether to return the coefficients after every sample, or after the last only.
        power: Of JacS; 0 of LegS.

    Returns:
        Coefficients (B, L, N), or (B, N).
    """
    step = step.to(c).expand(f.shape[1], len(f)).contiguous()
    return _Sequence.apply(c, f, step, alpha, every, power)  # type: ignore[return-value]


class _Sequence(torch.autograd.Function):
    """The map is linear: its gradient is its adjoint, and that one's is the map again."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, f: Tensor, step: Tensor, alpha: float, every: bool, power: float) -> Tensor:
        ctx.save_for_backward(step)
        ctx.rule = alpha, every, power
        state = c.clone(memory_format=torch.contiguous_format)
        outputs = c.new_empty(*f.shape, c.shape[1]) if every else None
        _run_sequence(state, f.contiguous(), step, outputs, alpha, power, adjoint=False)
        return state if outputs is None else outputs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (step,) = ctx.saved_tensors
        return *_Adjoint.apply(*grad_outputs, step, *ctx.rule), None, None, None, None  # type: ignore[misc]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, step: Tensor, alpha: float, every: bool, power: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(step)
        ctx.rule = alpha, every, power
        grad_f = grad.new_empty(len(grad), len(step))
        if every:
            state = grad.new_zeros(len(grad), grad.shape[-1])
        else:
            state = grad.clone(memory_format=torch.contiguous_format)
        _run_sequence(state, grad_f, step, grad.contiguous() if every else None, alpha, power, adjoint=True)
        return state, grad_f

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad_c, grad_f = grad_outputs
        (step,) = ctx.saved_tensors
        return sequence(grad_c, grad_f, step, *ctx.rule), None, None, None, None


def launch_shape(order: int, columns: int = COLUMNS, warps: int | None = None) -> dict[str, int]:
    """Return how a program for N coefficients is built: scanned at once, samples, warps. One warp needs no barriers,
    and up to 512 orders fit its registers, as the compiler reports for sm_90."""
    rows = min(1 << (order - 1).bit_length(), ROWS)
    return {"ROWS": rows, "COLUMNS": columns, "num_warps": warps or max(1, rows * columns // 512)}


def _step_once(
    c: Tensor,
    step: Tensor,
    u: Tensor,
    alpha: float,
    power: float,
    target: Tensor,
    adjoint: bool,
    shape: dict[str, int] | None = None,
) -> None:
    batch, order = c.shape
    for tensor, size in ((target, c.shape), (step, (batch,)), (u, (batch,))):
        if tensor.shape != size or (tensor.dtype, tensor.device) != (c.dtype, c.device):
            raise ValueError("a step needs (B, N) coefficients, (B,) steps and inputs, of one dtype and device")
    if not (step.is_contiguous() and u.is_contiguous()):
        raise ValueError("steps and inputs of a LegS step must be contiguous")
    strides = *c.stride(), *target.stride()
    with torch.cuda.device_of(c):
        shape = shape or launch_shape(order)
        kernel: Any = _step[(triton.cdiv(batch, shape["COLUMNS"]),)]
        kernel(c, target, step, u, *strides, order, batch, alpha=alpha, FIRST=1.0 + power, ADJOINT=adjoint, **shape)


def _run_sequence(
    state: Tensor, f: Tensor, step: Tensor, every: Tensor | None, alpha: float, power: float, adjoint: bool
) -> None:
    batch, order = state.shape
    shape = launch_shape(order)
    blocks = triton.cdiv(order, shape["ROWS"])
    with torch.cuda.device_of(state):
        kernel: Any = _sequence[(triton.cdiv(batch, COLUMNS),)]
        sizes = len(step), order, batch
        constants = {"alpha": alpha, "FIRST": 1.0 + power, "ADJOINT": adjoint, "BLOCKS": blocks}
        kernel(state, f, step, every, *sizes, **constants, **shape)


@triton.jit
def _then(m, a, q, r, m_next, a_next, q_next, r_next):
    return m_next * m, m_next * a + a_next, q_next * m, q_next * a + r_next


@triton.jit
def _change(x, n, d, W, alpha: tl.constexpr, FIRST: tl.constexpr, ADJOINT: tl.constexpr, ROWS: tl.constexpr):
    """Return by how much coefficients x (ROWS, COLUMNS) shrink in a step, and the running sum after them. FIRST is the
    first number on A's diagonal, 1 + p."""
    root = tl.sqrt(2.0 * n + FIRST)
    solve = 1.0 / (1.0 + alpha * d * (n + FIRST))
    if ADJOINT:
        addend, output = -root * x * solve, -d * root * solve
    else:
        addend, output = d * root * x * solve, root * solve
    direct = d * (n + FIRST) * x * solve
    through, added, output, direct = tl.associative_scan(
        ((1.0 - alpha * d * n) * solve, addend, output, direct), 0, _then
    )
    last = tl.arange(0, ROWS)[:, None] == ROWS - 1
    return output * W + direct, tl.sum(tl.where(last, through * W + added, 0.0), 0, keep_dims=True)


@triton.jit
def _rows(block, order, ADJOINT: tl.constexpr, ROWS: tl.constexpr):
    """Return orders in the way that a step runs over them; its adjoint counts down."""
    place = block * ROWS + tl.arange(0, ROWS)[:, None]
    return order - 1 - place if ADJOINT else place


@triton.jit(do_not_specialize_on_alignment=["step", "u"])
def _step(
    c, target, step, u, c_column, c_row, target_column, target_row, order, batch,
    alpha: tl.constexpr, FIRST: tl.constexpr, ADJOINT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    d = tl.load(step + column, column < batch, 0.0)
    W = tl.zeros_like(d)
    for block in range(tl.cdiv(order, ROWS)):
        row = _rows(block, order, ADJOINT, ROWS)
        here = (row >= 0) & (row < order) & (column < batch)
        n = tl.maximum(row, 0).to(d.dtype)
        x = tl.load(c + row * c_row + column * c_column, here, 0.0)
        moved = x
        if not ADJOINT:
            moved = tl.where(row == 0, x - tl.load(u + column, column < batch, 0.0), x)
        change, W = _change(moved, n, d, W, alpha, FIRST, ADJOINT, ROWS)
        tl.store(target + row * target_row + column * target_column, x - change, here)
        if ADJOINT:
            tl.store(u + column + tl.zeros_like(row), change, here & (row == 0))


@triton.jit(do_not_specialize_on_alignment=["step", "f"])
def _sequence(
    state, f, step, every, length, order, batch,
    alpha: tl.constexpr, FIRST: tl.constexpr, ADJOINT: tl.constexpr,
    BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """All samples of f (B, L), or back from the last. Coefficients of one block stay in registers; of more, in `state`
    (B, N). `every` (B, L, N), or None, gets the coefficients after each
    sample; on the way back it holds their gradients."""
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    row = _rows(0, order, ADJOINT, ROWS)
    here = (row >= 0) & (row < order) & (column < batch)
    x = tl.load(state + column * order + row, here, 0.0)
    for i in range(length):
        t = length - 1 - i if ADJOINT else i
        d = tl.load(step + t * batch + column, column < batch, 0.0)
        W = tl.zeros_like(d)
        for block in range(BLOCKS):
            if BLOCKS > 1:
                row = _rows(block, order, ADJOINT, ROWS)
                here = (row >= 0) & (row < order) & (column < batch)
                x = tl.load(state + column * order + row, here, 0.0)
            n = tl.maximum(row, 0).to(d.dtype)
            sample = f + column * length + t
            at = (column * length + t) * order + row
            if ADJOINT:
                if every is not None:
                    x += tl.load(every + at, here, 0.0)
                change, W = _change(x, n, d, W, alpha, FIRST, ADJOINT, ROWS)
                tl.store(sample + tl.zeros_like(row), change, here & (row == 0))
                x -= change
            else:
                moved = tl.where(row == 0, x - tl.load(sample, column < batch, 0.0), x)
                change, W = _change(moved, n, d, W, alpha, FIRST, ADJOINT, ROWS)
                x -= change
                if every is not None:
                    tl.store(every + at, x, here)
            if BLOCKS > 1:
                tl.store(state + column * order + row, x, here)
        if BLOCKS > 1:
            tl.debug_barrier()  # what is stored and what is loaded need not be laid out among threads alike
    if BLOCKS == 1:
        tl.store(state + column * order + row, x, here)
