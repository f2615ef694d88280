"""The kernels of `hippo.kernels.gated.gpu` in tensor operations: their reference, and their stand-ins on a CPU."""

import torch

from hippo.kernels.legs.naive import legs_step


def advance(c, step, u, alpha, target, power):
    target.copy_(legs_step(c, u, step, alpha, power))


def retreat(grad, step, u, alpha, target, power):
    """By the dense matrix of each sample's step."""
    batch, order = grad.shape
    unit = torch.eye(order, dtype=grad.dtype, device=grad.device).expand(batch, order, order)
    steps = step.unsqueeze(-1).expand(batch, order)
    columns = legs_step(unit, torch.zeros_like(steps), steps, alpha, power)
    u.copy_((legs_step(torch.zeros_like(grad), torch.ones_like(u), step, alpha, power) * grad).sum(-1))
    target.copy_((columns @ grad.unsqueeze(-1)).squeeze(-1))


def update_state(z, h, write, written, target, u):
    g, candidate = z.chunk(2, dim=1)
    torch.lerp(h, candidate.tanh_(), g.sigmoid_(), out=target)
    torch.addmv(written, target, write, out=u)


def update_state_adjoint(gates, h, write, grad_u, grad, grad_h, grad_z):
    g, candidate = gates.chunk(2, dim=1)
    total = grad_h + grad + torch.outer(grad_u, write)
    grad_z.copy_(torch.cat([(candidate - h) * total * g * (1 - g), total * g * (1 - candidate**2)], 1))
    grad_h.copy_(total * (1 - g))
