"""Fast paths, each beside its slow reference. `compiled()` says whether those for the CPU are in use."""

from hippo.kernels.common.native import compiled

__all__ = ["compiled"]
