"""What gated mixers see of the last few samples: a short causal convolution, and the sample before each."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConvolution(nn.Module):
    """Convolve every feature with the present sample and the `width` − 1 before it; the window does not know the rate.

    Args:
        features: E.
        width: Samples in the window.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width of the convolution must be at least 1, not {width}")
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(features, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features).uniform_(-bound, bound))

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        """Return the window before the first sample, zeros (batch, width − 1, E)."""
        return like.new_zeros(batch, self.weight.shape[1] - 1, len(self.weight))

    def forward(self, x: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return the convolution of (B, L, E), and the window to go on from."""
        x = torch.cat([window, x], 1)
        y = F.conv1d(x.mT, self.weight.unsqueeze(1), self.bias, groups=len(self.weight)).mT
        return y, x[:, x.shape[1] - window.shape[1] :]


def shifted(x: Tensor, before: Tensor) -> Tensor:
    """Return the sample before each of x (B, L, H), where `before` (B, H) came before the first."""
    return torch.cat([before.unsqueeze(1), x[:, :-1]], 1)


def each(rate: float | Tensor, dims: int) -> float | Tensor:
    """Return a rate (B, L) with `dims` more dimensions, or the number that it is."""
    return rate[(..., *(None,) * dims)] if isinstance(rate, Tensor) else rate


def step_bias(count: int, shortest: float, longest: float) -> Tensor:
    """Return biases whose softplus is a time step, drawn log-uniformly between the two (at least 1e-4)."""
    if not 0 < shortest <= longest:
        raise ValueError(f"steps must be 0 < shortest ≤ longest, not {shortest} and {longest}")
    ends = torch.tensor([shortest, longest], dtype=torch.float64).log()
    step = torch.exp(ends[0] + (ends[1] - ends[0]) * torch.rand(count, dtype=torch.float64)).clamp(min=1e-4)
    return (step + torch.log(-torch.expm1(-step))).to(torch.get_default_dtype())
