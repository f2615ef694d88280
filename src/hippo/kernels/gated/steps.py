"""What one step of the gated network does beside its matrix product and its memory, in tensor operations.

`hippo.kernels.gated.gpu` has the same functions as one kernel each.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from hippo.kernels.common import compile as jit


def enter(x: Tensor, h: Tensor, written: Tensor, write: Tensor, u: Tensor, seen_x: Tensor) -> None:
    """Write the input x (B, C) to `seen_x`, and what the memory is given to u (B,): written + write · h.

    Args:
        x: (B, C).
        h: The state before (B, D).
        written: (B,).
        write: (D,).
        u: (B,).
        seen_x: (B, C).
    """
    seen_x.copy_(x)
    torch.addmv(written, h, write, out=u)


def gate(z: Tensor, h: Tensor, target: Tensor) -> None:
    """Replace z (B, 2D) by σ of its first and tanh of its second half; write what they make of h (B, D) to `target`."""
    g, candidate = z.chunk(2, dim=1)
    torch.lerp(h, candidate.tanh_(), g.sigmoid_(), out=target)


def gate_adjoint(
    gates: Tensor, h: Tensor, write: Tensor, u: Tensor | None, grad: Tensor | None, grad_h: Tensor, grad_z: Tensor
) -> None:
    """Take the gradient of the state after a step, grad_h (B, D), to that of the state before, but for what that one
    writes; and write that of z to `grad_z`.

    Args:
        gates: What `gate` has made of z, (B, 2D).
        h: The state before (B, D).
        write: (D,).
        u: Gradient (B,) of what the next step has written, still to be added; None where there is none.
        grad: What else is to be added, (B, D), or None.
    """
    if grad is not None:
        grad_h += grad
    arrays = (gates, h, write, h.new_zeros(len(h)) if u is None else u, grad_h, grad_z)
    if jit.serves(grad_h) and all(array.is_contiguous() and array.dtype == h.dtype for array in arrays):
        _compile(h.dtype)(*(array.data_ptr() for array in arrays), 1.0, *h.shape)
        return
    if u is not None:
        grad_h.addr_(u, write)
    (g, candidate), (grad_g, scratch) = gates.chunk(2, dim=1), grad_z.chunk(2, dim=1)
    torch.sub(candidate, h, out=scratch).mul_(grad_h)
    torch.ops.aten.sigmoid_backward.grad_input(scratch, g, grad_input=grad_g)
    passed = torch.mul(grad_h, g, out=scratch)
    grad_h -= passed
    torch.ops.aten.tanh_backward.grad_input(passed, candidate, grad_input=scratch)


@functools.cache
def _compile(dtype: torch.dtype) -> Callable:
    return jit.native(_gate_adjoint, dtype, "ppppppxnn")


def _gate_adjoint(gates, h, write, u, grad_h, grad_z, one, batch, size):
    for b in range(batch):
        row, half, entered = b * size, (2 * b + 1) * size, u[b]
        for i in range(size):
            g, candidate = gates[half - size + i], gates[half + i]
            total = grad_h[row + i] + write[i] * entered
            passed = total * g
            grad_z[half - size + i] = (candidate - h[row + i]) * passed * (one - g)
            grad_z[half + i] = passed * (one - candidate * candidate)
            grad_h[row + i] = total - passed
