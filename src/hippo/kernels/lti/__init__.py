"""A memory whose step is the same at all times, c_k = Ā c_{k−1} + B̄ f_k, over a whole signal that is known ahead.

Three forms of the same map with the same signature. `recurrence` is the definition, and the reference of the others.
`convolution` is c = K ∗ f with the kernel K_k = Ā^k B̄, by FFT: O(N L log L) a signal, once the kernel is there. `scan`
composes steps pairwise, in log₂ L rounds of one product each: more work, but rounding does not spread to what came
before, as it does under an FFT. `last` gives the end alone, and `powers` is what kernels are made of.

Each takes Ā (N, N), B̄ (N,), a signal f (..., L), and the coefficients c before the first sample, (..., N).

Each returns the coefficients after every sample, (..., L, N).
"""

from hippo.kernels.lti.blocks import Blocks, last
from hippo.kernels.lti.doubling import scan
from hippo.kernels.lti.fft import convolution, powers
from hippo.kernels.lti.naive import recurrence

__all__ = ["Blocks", "convolution", "last", "powers", "recurrence", "scan"]
