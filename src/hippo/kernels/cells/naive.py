"""Recurrent cells over a whole sequence, step by step in tensor operations, as their papers have them. h_0 = 0.

All begin with `from_x`, what the input brings to each step (L, B, Z): one product for all steps, made before.

Returns, of each: The hidden states after every step (L, B, D).
"""

import torch
from torch import Tensor
from torch.nn.functional import linear


def kept(z: Tensor, gap: Tensor | None) -> Tensor:
    """Return σ(z)^gap, the share of a state that is left after a gap (B, 1) if σ(z) is left after one unit of time."""
    return torch.sigmoid(z) if gap is None else torch.exp(-gap * torch.nn.functional.softplus(-z))


def gru(
    from_x: Tensor, weight: Tensor, bias: Tensor, decay: Tensor | None = None, gaps: Tensor | None = None
) -> Tensor:
    """The gated recurrent unit of `torch.nn.GRU` (arXiv 1406.1078), and that of GRU-D (arXiv 1606.01865)."""
    h = from_x.new_zeros(from_x.shape[1], weight.shape[1])
    hidden = []
    for t, z_x in enumerate(from_x):
        h = gru_step(z_x, h if decay is None else decay[t] * h, weight, bias, None if gaps is None else gaps[t])
        hidden.append(h)
    return torch.stack(hidden)


def gru_step(from_x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, gap: Tensor | None = None) -> Tensor:
    """Return the next hidden state (B, D) from from_x (B, 3D) and the present one."""
    reset_x, update_x, candidate_x = from_x.chunk(3, dim=-1)
    reset_h, update_h, candidate_h = linear(h, weight, bias).chunk(3, dim=-1)
    candidate = torch.tanh(torch.addcmul(candidate_x, torch.sigmoid(reset_x + reset_h), candidate_h))
    share = kept(update_x + update_h, gap)
    return torch.lerp(candidate.to(share.dtype), h.to(share.dtype), share)  # under autocast a gap is in full precision


def lstm(from_x: Tensor, weight: Tensor, gaps: Tensor) -> Tensor:
    """Long short-term memory (Hochreiter and Schmidhuber 1997) whose cell goes on for a gap as it would in one unit."""
    h = c = from_x.new_zeros(from_x.shape[1], weight.shape[1])
    hidden = []
    for z_x, gap in zip(from_x, gaps, strict=True):
        write, forget, candidate, output = linear(h, weight).add(z_x).chunk(4, dim=-1)
        forget = forget.clamp(max=50)  # 1 to the last digit, but for what is divided by below
        lost = -torch.expm1(-gap * torch.nn.functional.softplus(-forget))
        units = lost / torch.sigmoid(-forget)  # 1 + f + f² + …, as many as the gap has units
        c = c - lost * c + torch.sigmoid(write) * units * torch.tanh(candidate)
        h = torch.sigmoid(output) * torch.tanh(c)
        hidden.append(h)
    return torch.stack(hidden)


def lmu(
    from_x: Tensor,
    written: Tensor,
    kernel_h: Tensor | None,
    kernel_m: Tensor,
    A: Tensor,
    B: Tensor,
    write_h: Tensor,
    write_m: Tensor | None,
) -> Tensor:
    """The Legendre memory unit (NeurIPS 2019), and with Z = 2D the gated network of arXiv 2008.07669, Figure 2."""
    kernel_h = kernel_m.new_zeros(len(kernel_m), len(write_h)) if kernel_h is None else kernel_h
    write_m = torch.zeros_like(B) if write_m is None else write_m
    read, write = torch.cat([kernel_h, kernel_m], 1), torch.cat([write_h, write_m])
    h, m = (from_x.new_zeros(from_x.shape[1], len(v)) for v in (write_h, write_m))
    hidden = []
    for z_x, u_x in zip(from_x, written, strict=True):
        u = torch.addmv(u_x, torch.cat([h, m], dim=1), write)
        m = torch.addcmul(m @ A.mT, u.unsqueeze(-1), B)
        z = torch.addmm(z_x, torch.cat([h, m], dim=1), read.mT)
        if len(read) == len(write_h):
            h = torch.tanh(z)
        else:
            g, candidate = z.chunk(2, dim=-1)
            h = torch.lerp(h, torch.tanh(candidate), torch.sigmoid(g))
        hidden.append(h)
    return torch.stack(hidden)


def mgu(from_x: Tensor, forget_h: Tensor, candidate_h: Tensor) -> Tensor:
    """The minimal gated unit (arXiv 1603.09420)."""
    h = from_x.new_zeros(from_x.shape[1], len(forget_h))
    hidden = []
    for forget_x, candidate_x in (z.chunk(2, dim=-1) for z in from_x):
        f = torch.sigmoid(torch.addmm(forget_x, h, forget_h.mT))
        h = torch.lerp(h, torch.tanh(torch.addmm(candidate_x, f * h, candidate_h.mT)), f)
        hidden.append(h)
    return torch.stack(hidden)


def modrelu(from_x: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
    """A linear recurrence behind modReLU(z) = sign(z) max(|z| + b, 0) (arXiv 1901.08428)."""
    h = torch.zeros_like(from_x[0])
    hidden = []
    for z_x in from_x:
        z = torch.addmm(z_x, h, weight.mT)
        h = torch.sign(z) * torch.relu(z.abs() + threshold)
        hidden.append(h)
    return torch.stack(hidden)


def fru(from_x: Tensor, wave: Tensor, recall: Tensor, bias: Tensor, statistic: Tensor) -> Tensor:
    """The averages u of the Fourier recurrent unit (arXiv 1806.06585), (L, B, F S)."""
    u = from_x.new_zeros(from_x.shape[1], wave.shape[1], len(statistic))
    averages = []
    for z_x, wave_t in zip(from_x, wave, strict=True):
        r = torch.relu(linear(u.flatten(1), recall, bias))
        phi = torch.relu(torch.addmm(z_x, r, statistic.mT))
        u = torch.addcmul(u, wave_t.unsqueeze(-1), phi.unsqueeze(1))
        averages.append(u.flatten(1))
    return torch.stack(averages)
