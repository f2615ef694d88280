"""Causal convolutions of sequences with a kernel for each feature.

One form serves all: `convolve` by FFT. Products with the kernel's Toeplitz matrix, in blocks, take twice the time at
182 steps and four times at 784 (one core, B = 50, H = 64, forward and backward).
"""

from torch import Tensor

from hippo.kernels.convolution import fourier


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Return y_t = Σ_{l ≤ t} K_l x_{t−l}.

    Args:
        x: (B, L, H), or (B, L, 1) where one sequence is to be convolved with all kernels.
        kernel: K (H, M), 1 ≤ M ≤ L.

    Returns:
        (B, L, H). Rounding is relative to the largest output of a sequence and feature, as of every FFT.

    Raises:
        ValueError: If shapes disagree.
    """
    if x.dim() != 3 or kernel.dim() != 2 or x.shape[2] not in (1, len(kernel)) or kernel.shape[1] > x.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} and kernel {tuple(kernel.shape)} must be (B, L, H) or (B, L, 1), and (H, M) with M ≤ L"
        )
    return fourier.convolve(x, kernel)
