"""Fast paths, each beside its slow reference. `compiled()` says whether those for the CPU are in use.

An operation is a folder. `naive` is the reference; `cpu` is compiled by numba and `gpu` by Triton. A fast path that is
made of tensor operations runs on every device, so it bears the name of its algorithm: `chunked`, `recomputed`,
`blocks`, `doubling`, `fft`, `fourier`. So does `legs.wavefront`, a second algorithm on the CPU. The folder's `__init__`
is its door: it chooses what serves the tensors of a call. `hippo.routes` chooses among operations, for a memory.
"""

from hippo.kernels.common.native import compiled, opaque

__all__ = ["compiled", "opaque"]
