"""The gated network of `hippo.models.HiPPORNN` over a whole sequence, with its own backward pass.

It computes what the loop in that model does in one matrix product a step, and two a step backward: one for the states,
one for the weights. States stand as (features, batch), so that every operation reads and writes contiguous memory; the
input and the bias are rows of what a step reads. What a step needs beside what is kept for backward stays in the cache.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.legs import Semiseparable, Transition
from hippo.kernels.sweep import Sweep


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

    def backward(self, grad: Tensor, entering: Tensor, target: Tensor) -> None:
        """Write the gradient of c to `target`, from that of the next coefficients, and that of u to the last row."""
        torch.mm(self.into.mT, grad, out=entering[-self.width :])
        if self.blocks is None:
            target.zero_()
        elif self.blocks.dim() == 2:
            torch.mm(self.blocks.mT, grad, out=target)
        else:
            blocked = (*self.blocks.shape[:2], grad.shape[-1])
            torch.baddbmm(grad.view(blocked), self.blocks.mT, grad.view(blocked), out=target.view(blocked))
        if self.out is not None:
            target.addmm_(self.out.mT, entering[:-1])


def gated(
    x: Tensor, read: Tensor, bias: Tensor, written_x: Tensor, write: Tensor, operators: Sequence[Operator | Sweep]
) -> tuple[Tensor, ...]:
    """Return the hidden states (B, D) after each of L steps:

        u_t = written_x_t + write · h_{t-1}
        c_t = Ā_t c_{t-1} + B̄_t u_t
        [g_t, z_t] = read [x_t, c_t] + bias
        h_t = h_{t-1} + σ(g_t) (tanh(z_t) − h_{t-1})

    with h_0 = c_0 = 0. Gradients are of first order only.

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
    hidden = _Gated.apply(x.mT, weight, written_x, write, operators, torch.is_grad_enabled())
    return tuple(h.mT for h in hidden)  # type: ignore[union-attr]


class _Gated(torch.autograd.Function):
    """x (L, C, B), weight (2D, N + C + 1), written (L, B), write (D,) ↦ L hidden states (D, B)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        written: Tensor,
        write: Tensor,
        steps: Sequence[Operator | Sweep],
        recording: bool,
    ) -> tuple[Tensor, ...]:
        length, channels, batch = x.shape
        order, size = steps[0].order, len(write)
        kept = length if recording and any(ctx.needs_input_grad) else 2
        # What a step reads: the coefficients, the input, and 1.
        seen = x.new_empty(kept, order + channels + 1, batch)
        gates = x.new_empty(kept, 2 * size, batch)
        hidden = x.new_empty(length + 1, size, batch)
        entering = x.new_empty(max(step.width for step in steps), batch)
        hidden[0] = 0
        seen[:, -1] = 1
        c = x.new_zeros(order, batch)
        for t, step in enumerate(steps):
            h, here, z = hidden[t], seen[t % kept], gates[t % kept]
            here[order:-1] = x[t]
            torch.addmv(written[t], h.mT, write, out=entering[-1])
            step.forward(c, entering, here[:order])
            c = here[:order]
            torch.mm(weight, here, out=z)
            torch.lerp(h, z[size:].tanh_(), z[:size].sigmoid_(), out=hidden[t + 1])
        ctx.save_for_backward(weight, write, seen, gates, hidden)
        ctx.set_materialize_grads(False)
        ctx.steps = steps
        return hidden[1:].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient is asked for
            raise RuntimeError("the HiPPO network has gradients of first order only; HiPPORNN.step_by_step has all")
        weight, write, seen, gates, hidden = ctx.saved_tensors
        (length, rows, batch), size, order = seen.shape, len(write), ctx.steps[0].order
        read = weight[:, :-1].mT.contiguous()  # what the gradients of c and x are read with
        entering = hidden.new_empty(max(step.width for step in ctx.steps), batch)
        grad_weight, grad_write = torch.zeros_like(weight), torch.zeros_like(write)
        grad_x, grad_written = hidden.new_empty(length, rows - order - 1, batch), hidden.new_empty(length, batch)
        grad_h, grad_z = hidden.new_zeros(size, batch), hidden.new_empty(2 * size, batch)
        grad_c, grad_next = hidden.new_zeros(2, order, batch)
        scratch = torch.empty_like(grad_h)
        for t in reversed(range(length)):
            if grad_outputs[t] is not None:
                grad_h += grad_outputs[t]
            h, g, candidate = hidden[t], gates[t, :size], gates[t, size:]
            torch.sub(candidate, h, out=scratch).mul_(grad_h)
            torch.ops.aten.sigmoid_backward.grad_input(scratch, g, grad_input=grad_z[:size])
            torch.mul(grad_h, g, out=scratch)
            torch.ops.aten.tanh_backward.grad_input(scratch, candidate, grad_input=grad_z[size:])
            grad_h -= scratch
            grad_weight.addmm_(grad_z, seen[t].mT)
            torch.mm(read[order:], grad_z, out=grad_x[t])
            grad_next.addmm_(read[:order], grad_z)
            ctx.steps[t].backward(grad_next, entering, grad_c)
            grad_c, grad_next = grad_next, grad_c
            grad_written[t] = entering[-1]
            grad_write.addmv_(h, entering[-1])
            grad_h.addr_(write, entering[-1])
        return grad_x, grad_weight, grad_written, grad_write, None, None
