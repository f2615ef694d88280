"""The selective scan on what one step touches, (B, N, D), in place; the backward pass makes the states again.

The forward pass keeps the states at every `_SPAN`-th step; the backward pass starts from them, a span at a time.
"""

from typing import Any

import torch
from torch import Tensor

_SPAN = 28  # about √L for the lengths here: as many states are kept as a span has


class SelectiveScan(torch.autograd.Function):
    """u, step (B, L, D), A (D, N), B, C (B, L, N), state (B, D, N) to outputs (B, L, D) and the state (B, D, N)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        u, step, A, B, C, state = inputs
        dt, B, C = (x.transpose(0, 1).contiguous() for x in (step, B, C))  # time first
        x = dt * u.transpose(0, 1)
        A = A.mT.contiguous()  # channels last, as in the states (B, N, D)
        h = state.mT.clone(memory_format=torch.contiguous_format)
        y, decay = torch.empty_like(dt), torch.empty_like(h)
        starts = h.new_empty(-(-len(dt) // _SPAN), *h.shape)
        for t in range(len(dt)):
            if t % _SPAN == 0:
                starts[t // _SPAN] = h
            torch.mul(dt[t].unsqueeze(1), A, out=decay)
            h.mul_(decay.exp_()).addcmul_(x[t].unsqueeze(1), B[t].unsqueeze(2))
            torch.bmm(C[t].unsqueeze(1), h, out=y[t].unsqueeze(1))
        ctx.save_for_backward(u, dt, x, A, B, C, starts)
        return y.transpose(0, 1), h.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, ...]:  # pyrefly: ignore[bad-override]
        to_y, to_state = grad_outputs
        u, dt, x, A, B, C, starts = ctx.saved_tensors
        to_y = to_y.transpose(0, 1).contiguous()
        g = to_state.mT.clone(memory_format=torch.contiguous_format)
        to_x, to_dt, to_B, to_C = (torch.empty_like(v) for v in (x, dt, B, C))
        to_A, product = torch.zeros_like(g), torch.empty_like(g)
        h, decay, adjoint = g.new_empty(3, min(_SPAN, len(dt)) + 1, *g.shape).unbind(0)
        for span, start in reversed(list(enumerate(starts))):
            steps = range(span * _SPAN, min((span + 1) * _SPAN, len(dt)))
            h[0] = start
            for k, t in enumerate(steps):
                torch.mul(dt[t].unsqueeze(1), A, out=decay[k]).exp_()
                torch.mul(decay[k], h[k], out=h[k + 1]).addcmul_(x[t].unsqueeze(1), B[t].unsqueeze(2))
            for k, t in reversed(list(enumerate(steps))):
                torch.addcmul(g, C[t].unsqueeze(2), to_y[t].unsqueeze(1), out=adjoint[k])
                torch.mul(adjoint[k], decay[k], out=g)
                torch.mul(g, h[k], out=product)
                to_A.addcmul_(product, dt[t].unsqueeze(1))
                torch.sum(product.mul_(A), 1, out=to_dt[t])
            here, size = slice(steps.start, steps.stop), len(steps)
            to_C[here] = (h[1 : size + 1] @ to_y[here].unsqueeze(-1)).squeeze(-1)
            to_B[here] = (adjoint[:size] @ x[here].unsqueeze(-1)).squeeze(-1)
            to_x[here] = (B[here].unsqueeze(-2) @ adjoint[:size]).squeeze(-2)
        to_u, to_dt = to_x * dt, to_dt.addcmul_(to_x, u.transpose(0, 1))
        to_u, to_dt, to_B, to_C = (v.transpose(0, 1) for v in (to_u, to_dt, to_B, to_C))
        return to_u, to_dt, to_A.sum(0).mT, to_B, to_C, g.mT
