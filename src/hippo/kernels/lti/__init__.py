"""A memory whose step is the same at all times, c_k = Ā c_{k−1} + B̄ f_k, over a whole signal that is known ahead.

Three forms of the same map with the same signature. `recurrence` is the definition, and the reference of the others.
`convolution` is c = K ∗ f with the kernel K_k = Ā^k B̄, by FFT: O(N L log L) a signal, once the kernel is there. `scan`
composes steps pairwise, in log₂ L rounds of one product each: more work, but rounding does not spread to what came
before, as it does under an FFT. `last` gives the end alone.

Args, of each of the three:
    A: Ā (N, N).
    B: B̄ (N,).
    f: Signal (..., L).
    c: Coefficients before the first sample (..., N).

Returns:
    The coefficients after every sample (..., L, N).
"""

from typing import NamedTuple

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


class Blocks(NamedTuple):
    """What blocks of samples do to coefficients: c ↦ Ā^K c + Σ Ā^(K−1−k) B̄ f_k, for K of 1, 2, 4, …

    Attributes:
        effects: Ā^(K−1) B̄, …, Ā B̄, B̄ for the largest K, (K, N).
        jumps: Ā^1, Ā^2, Ā^4, …, Ā^K, each (N, N).
    """

    effects: Tensor
    jumps: tuple[Tensor, ...]

    @classmethod
    def of(cls, A: Tensor, B: Tensor) -> "Blocks":
        """Return the blocks of a step: so long that what they do to c costs little beside what samples do to them."""
        jumps = [A]
        while 1 << (len(jumps) - 1) < max(_BLOCK, 4 * len(B)):
            jumps.append(jumps[-1] @ jumps[-1])
        return cls(powers(A, B, 1 << (len(jumps) - 1)).flip(0), tuple(jumps))

    def to(self, like: Tensor) -> "Blocks":
        """Return them in the dtype and on the device of another tensor."""
        return Blocks(self.effects.to(like), tuple(jump.to(like) for jump in self.jumps))


def last(blocks: Blocks, f: Tensor, c: Tensor) -> Tensor:
    """The coefficients after the last sample only, (..., N): O(N) a sample.

    Blocks that were made in float64 round less than the single steps do.
    """
    begin, length = 0, f.shape[-1]
    for size, jump in reversed([(1 << k, jump) for k, jump in enumerate(blocks.jumps)]):
        if count := (length - begin) // size:
            samples = f[..., begin : begin + count * size].unflatten(-1, (count, size))
            for added in (samples @ blocks.effects[-size:]).unbind(-2):
                c = added + c @ jump.mT
            begin += count * size
    return c


def powers(A: Tensor, v: Tensor, count: int) -> Tensor:
    """Return v, A v, A² v, …, A^(count−1) v for vectors v (..., N), as (..., count, N), in log₂ count products."""
    found = v.unsqueeze(-2)
    while found.shape[-2] < count:
        found = torch.cat([found, found @ A.mT], dim=-2)
        A = A @ A
    return found[..., :count, :]
