"""The last coefficients of a time-invariant memory, from blocks of samples."""

from typing import NamedTuple

from torch import Tensor

from hippo.kernels.lti.fft import powers

_BLOCK = 1024  # samples: enough of them make the products with powers of Ā cheap, whatever N is


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
    """Return the coefficients after the last sample of f (..., L) only, (..., N), from c (..., N): O(N) a sample.

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
