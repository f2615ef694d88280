"""What one step of the gated network does beside its matrix product and its memory, in tensor operations.

`hippo.kernels.fused` has the same functions as one kernel each. States stand as (features, batch).
"""

import torch
from torch import Tensor


def enter(x: Tensor, h: Tensor, written: Tensor, write: Tensor, u: Tensor, seen_x: Tensor) -> None:
    """Write the input x (C, B) to `seen_x`, and what the memory is given to u (B,): written + write · h.

    Args:
        h: The state before (D, B).
        written: (B,).
        write: (D,).
    """
    seen_x.copy_(x)
    torch.addmv(written, h.mT, write, out=u)


def gate(z: Tensor, h: Tensor, target: Tensor) -> None:
    """Replace z (2D, B) by σ of its first and tanh of its second half; write what they make of h (D, B) to `target`."""
    size = len(h)
    torch.lerp(h, z[size:].tanh_(), z[:size].sigmoid_(), out=target)


def gate_adjoint(
    gates: Tensor, h: Tensor, write: Tensor, u: Tensor | None, grad: Tensor | None, grad_h: Tensor, grad_z: Tensor
) -> None:
    """Take the gradient of the state after a step, grad_h (D, B), to that of the state before, but for what that one
    writes; and write that of z to `grad_z`.

    Args:
        gates: What `gate` has made of z, (2D, B).
        h: The state before (D, B).
        write: (D,).
        u: Gradient (B,) of what the next step has written, still to be added; None where there is none.
        grad: What else is to be added, (D, B), or None.
    """
    if u is not None:
        grad_h.addr_(write, u)
    if grad is not None:
        grad_h += grad
    size = len(h)
    g, candidate, scratch = gates[:size], gates[size:], grad_z[size:]
    torch.sub(candidate, h, out=scratch).mul_(grad_h)
    torch.ops.aten.sigmoid_backward.grad_input(scratch, g, grad_input=grad_z[:size])
    passed = torch.mul(grad_h, g, out=scratch)
    grad_h -= passed
    torch.ops.aten.tanh_backward.grad_input(passed, candidate, grad_input=grad_z[size:])
