"""The gated network of `hippo.models.HiPPORNN` over a whole sequence, with its own backward pass.

It computes what the loop in that model does, in fewer and larger operations. States stand as (features, batch), so that
every product reads and writes contiguous memory; the input and the bias are rows of what a step reads; backward needs
one product for the step, and the weights' gradients are products over many steps. It serves memories whose steps all
samples of the batch share.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.legs import Semiseparable, Transition
from hippo.kernels.sweep import Sweep

_CHUNK = 16  # steps whose part in the weights' gradients is one product


class Operator(NamedTuple):
    """One step of a memory, on coefficients that stand as (N, B): c ↦ [c +] blocks c + into [out c, u].

    Attributes:
        blocks: The diagonal blocks (M, K, K) of Ā − I; the whole of Ā as (N, N); or None where it is 0.
        out: What passes from block to block, (M, N), or None.
        into: Where that goes, and B̄, (N, M + 1) or (N, 1).
    """

    blocks: Tensor | None
    out: Tensor | None
    into: Tensor

    @classmethod
    def of(cls, transition: Transition) -> "Operator":
        """Return a transition without batch dimensions in this form; N is filled up to whole blocks with zeros."""
        A, B = transition
        if not isinstance(A, Semiseparable):
            return cls(A, None, B.unsqueeze(-1))
        count, block = A.inward.shape
        B = torch.nn.functional.pad(B, (0, count * block - len(B))).unsqueeze(-1)
        if A.carry is None:
            return cls(A.blocks, None, B)
        unit = torch.eye(count, dtype=B.dtype, device=B.device)
        carry = (A.carry @ unit).mT  # applied to rows, hence to unit vectors one by one
        into = (A.inward.unsqueeze(-1) * unit.unsqueeze(1)).flatten(0, 1)
        out = (carry.unsqueeze(-1) * A.outward).flatten(1)
        return cls(A.blocks, out, torch.cat([into, B], dim=1))

    @classmethod
    def sequence(cls, transitions: Iterable[Transition]) -> "tuple[Operator, ...]":
        """Return the transitions of a sequence in this form, all with the same N."""
        steps = [cls.of(transition) for transition in transitions]
        rows = max(len(step.into) for step in steps)
        filled = (torch.nn.functional.pad(step.into, (0, 0, 0, rows - len(step.into))) for step in steps)
        return tuple(step._replace(into=into) for step, into in zip(steps, filled, strict=True))

    @property
    def order(self) -> int:
        return self.into.shape[0]

    @property
    def width(self) -> int:
        return self.into.shape[1]

    def forward(self, c: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the next coefficients to `target`; the last row of `entering` (M + 1, B) is u, the others are room."""
        if self.blocks is None:
            torch.mm(self.into, entering[-1:], out=target)
            return
        if self.blocks.dim() == 2:
            torch.mm(self.blocks, c, out=target)
        else:
            blocked = (*self.blocks.shape[:2], c.shape[-1])
            torch.baddbmm(c.view(blocked), self.blocks, c.view(blocked), out=target.view(blocked))
        if self.out is not None:
            torch.mm(self.out, c, out=entering[:-1])
        target.addmm_(self.into, entering[-self.width :])

    def backward(self, grad: Tensor, entering: Tensor) -> Tensor:
        """Return the gradient of c from that of the next coefficients, and leave that of u in the last row."""
        torch.mm(self.into.mT, grad, out=entering[-self.width :])
        if self.blocks is None:
            return torch.zeros_like(grad)
        if self.blocks.dim() == 2:
            before = self.blocks.mT @ grad
        else:
            blocked = (*self.blocks.shape[:2], grad.shape[-1])
            before = torch.baddbmm(grad.view(blocked), self.blocks.mT, grad.view(blocked)).view_as(grad)
        return before if self.out is None else before.addmm_(self.out.mT, entering[:-1])


def gated(
    x: Tensor, read: Tensor, bias: Tensor, written_x: Tensor, write: Tensor, operators: Sequence[Operator | Sweep]
) -> Tensor:
    """Return the hidden states (L, B, D) of

        u_t = written_x_t + write · h_{t-1}
        c_t = Ā_t c_{t-1} + B̄_t u_t
        [g_t, z_t] = read [x_t, c_t] + bias
        h_t = h_{t-1} + σ(g_t) (tanh(z_t) − h_{t-1})

    with h_0 = c_0 = 0.

    Args:
        x: (L, B, C).
        read: (2D, C + N).
        bias: (2D,).
        written_x: (L, B).
        write: (D,).
        operators: The memory's steps, L of them.
    """
    order = operators[0].order  # N, filled up to whole blocks
    read_x, read_c = read.tensor_split([x.shape[-1]], dim=1)
    read_c = torch.nn.functional.pad(read_c, (0, order - read_c.shape[1]))
    weight = torch.cat([read_c, read_x, bias.unsqueeze(-1)], dim=1)
    return _Gated.apply(x.mT, weight, written_x, write, operators).mT  # type: ignore[union-attr]


class _Gated(torch.autograd.Function):
    """x (L, C, B), weight (2D, N + C + 1), written (L, B), write (D,) ↦ hidden states (L, D, B)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, written: Tensor, write: Tensor, steps: Sequence[Operator | Sweep]
    ) -> Tensor:
        length, channels, batch = x.shape
        order, size = steps[0].order, len(write)
        kept = length if any(ctx.needs_input_grad) else 2
        # What a step reads: the coefficients, the input, and 1.
        seen = x.new_empty(kept, order + channels + 1, batch)
        gates = x.new_empty(kept, 2 * size, batch)
        hidden = x.new_empty(length + 1, size, batch)
        entering = x.new_empty(max(step.width for step in steps), batch)
        hidden[0] = 0
        seen[:, -1] = 1
        if kept == length:
            seen[:, order:-1] = x
        c = x.new_zeros(order, batch)
        for t, step in enumerate(steps):
            h, here, z = hidden[t], seen[t % kept], gates[t % kept]
            if kept != length:
                here[order:-1] = x[t]
            torch.addmv(written[t], h.mT, write, out=entering[-1])
            step.forward(c, entering, here[:order])
            c = here[:order]
            torch.mm(weight, here, out=z)
            g, candidate = z[:size].sigmoid_(), z[size:].tanh_()
            torch.lerp(h, candidate, g, out=hidden[t + 1])
        ctx.save_for_backward(weight, write, seen, gates, hidden)
        ctx.steps = steps
        return hidden[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad,) = grad_outputs
        weight, write, seen, gates, hidden = ctx.saved_tensors
        (length, _, batch), size = seen.shape, len(write)
        order = ctx.steps[0].order
        read_c = weight[:, :order].mT.contiguous()
        entering = grad.new_empty(max(step.width for step in ctx.steps), batch)
        grad_z = gates.new_empty(length, 2 * size, batch)
        grad_written = grad.new_empty(length, batch)
        grad_weight, scratch = torch.zeros_like(weight), grad.new_empty(size, batch)
        grad_h, grad_c = grad.new_zeros(size, batch), grad.new_zeros(order, batch)
        for t in reversed(range(length)):
            grad_h += grad[t]
            h, g, candidate, dz = hidden[t], gates[t, :size], gates[t, size:], grad_z[t]
            torch.sub(candidate, h, out=scratch).mul_(grad_h)
            torch.ops.aten.sigmoid_backward.grad_input(scratch, g, grad_input=dz[:size])
            torch.mul(grad_h, g, out=scratch)
            torch.ops.aten.tanh_backward.grad_input(scratch, candidate, grad_input=dz[size:])
            grad_h -= scratch
            grad_c.addmm_(read_c, dz)
            grad_c = ctx.steps[t].backward(grad_c, entering)
            grad_written[t] = entering[-1]
            grad_h.addr_(write, entering[-1])
            if t % _CHUNK == 0:
                left, right = (v[t : t + _CHUNK].transpose(0, 1).flatten(1) for v in (grad_z, seen))
                grad_weight.addmm_(left, right.mT)
        grad_x = weight[:, order:-1].mT @ grad_z if ctx.needs_input_grad[0] else None
        grad_write = torch.einsum("ldb,lb->d", hidden[:-1], grad_written)
        return grad_x, grad_weight, grad_written, grad_write, None
