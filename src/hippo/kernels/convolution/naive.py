"""A causal convolution as a sum: what the fast form is tested against."""

import torch
from torch import Tensor


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Return y_t = Σ_{l ≤ t} K_l x_{t−l}, (B, L, H), for x (B, L, H) or (B, L, 1) and a kernel (H, M)."""
    outputs = []
    for t in range(x.shape[1]):
        reach = min(t + 1, kernel.shape[1])
        past = x[:, t + 1 - reach : t + 1].flip(1)
        outputs.append((past * kernel[:, :reach].mT).sum(1))
    return torch.stack(outputs, dim=1)
