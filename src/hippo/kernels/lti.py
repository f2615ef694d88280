"""A memory whose step is the same at all times, c_k = Ā c_{k−1} + B̄ f_k, over a whole signal that is known ahead.

Three forms of the same map with the same signature, and `last` for its end alone. `recurrence` is the definition, and
the reference of the others.
`convolution` is c = K ∗ f with the kernel K_k = Ā^k B̄, by FFT: O(N L log L) a signal, once the kernel is there. `scan`
composes steps pairwise, in log₂ L rounds of one product each: more work, but rounding does not spread to what came
before, as it does under an FFT.

Args, of each:
    A: Ā (N, N).
    B: B̄ (N,).
    f: Signal (..., L).
    c: Coefficients before the first sample (..., N).

Returns:
    The coefficients after every sample (..., L, N).
"""

import torch
from torch import Tensor

_BLOCK = 1024  # samples: enough of them make the products with powers of Ā cheap, whatever N is


def recurrence(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """Step by step."""
    outputs = []
    for f_k in f.unbind(-1):
        c = torch.addcmul(c @ A.mT, f_k.unsqueeze(-1), B)
        outputs.append(c)
    return torch.stack(outputs, dim=-2)


def scan(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """By recursive doubling: after round j each entry holds the effect of the 2^j samples up to it."""
    length = f.shape[-1]
    effect = f.unsqueeze(-1) * B
    effect = torch.cat([effect[..., :1, :] + (c @ A.mT).unsqueeze(-2), effect[..., 1:, :]], dim=-2)
    reach = 1
    while reach < length:
        later = torch.addmm(effect[..., reach:, :].flatten(0, -2), effect[..., :-reach, :].flatten(0, -2), A.mT)
        effect = torch.cat([effect[..., :reach, :], later.view_as(effect[..., reach:, :])], dim=-2)
        A, reach = A @ A, 2 * reach
    return effect


def convolution(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """By FFT. Rounding is relative to the largest coefficient of the whole signal."""
    length = f.shape[-1]
    kernel = powers(A, B, length)
    size = 1 << (2 * length - 1).bit_length()
    spectrum = torch.fft.rfft(f, size).unsqueeze(-1) * torch.fft.rfft(kernel, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=-2)[..., :length, :] + powers(A, c @ A.mT, length)


def last(A: Tensor, B: Tensor, f: Tensor, c: Tensor) -> Tensor:
    """The coefficients after the last sample only, (..., N): O(N) a sample.

    A block of samples acts on the coefficients at its end by one product, and the coefficients before it by Ā^block.
    A and B may be in float64, whatever the others are: what they are raised to is rounded once, at the end.
    """
    length, block = f.shape[-1], max(_BLOCK, 4 * len(B))
    effects = powers(A, B, min(block, length)).flip(0).to(c)
    first = length % block
    if first:
        c = c @ torch.linalg.matrix_power(A, first).to(c).mT + f[..., :first] @ effects[-first:]
    if length >= block:
        jump = torch.linalg.matrix_power(A, block).to(c).mT
        for added in (f[..., first:].unflatten(-1, (-1, block)) @ effects).unbind(-2):
            c = torch.addmm(added, c, jump) if c.dim() == 2 else added + c @ jump
    return c


def powers(A: Tensor, v: Tensor, count: int) -> Tensor:
    """Return v, A v, A² v, …, A^(count−1) v for vectors v (..., N), as (..., count, N), in log₂ count products."""
    found = v.unsqueeze(-2)
    while found.shape[-2] < count:
        found = torch.cat([found, found @ A.mT], dim=-2)
        A = A @ A
    return found[..., :count, :]
