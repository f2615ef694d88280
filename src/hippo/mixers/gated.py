"""What gated mixers share: one map for sequences, chunks and steps; a short convolution, the sample before each."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hippo.mixers.base import Mixer

_LARGEST = 1 << 24  # bytes of a tensor

State = tuple[Tensor, Tensor]


class Gated(Mixer):
    """A mixer whose state is two tensors and whose step is `advance` of one sample.

    On a CPU a large batch goes through in groups of sequences. Memory for tensors of 32 MiB and more is taken from the
    system, page by page, and given back each time, which at 50 sequences of 784 samples with 128 features takes as
    long again as all the arithmetic of Mamba-2 (2.1 s of forward and backward against 1.0 s), and a quarter to a half
    of that of the others.

    Attributes:
        width: Channels of the widest tensor (B, L, ·).
    """

    takes_rate = takes_gaps = True
    width: int

    @abstractmethod
    def advance(self, x: Tensor, state: State, rate: float | Tensor) -> tuple[Tensor, State]:
        """Return what `forward` does, for any number of samples."""

    def forward(self, x: Tensor, state: State | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, State]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        count = max(1, _LARGEST // (x.shape[1] * self.width * x.element_size()))
        if x.device.type != "cpu" or len(x) <= count:
            return self.advance(x, state, rate)
        pieces = (v.split(count) if isinstance(v, Tensor) else (v,) * len(x) for v in (x, *state, rate))
        parts = [self.advance(x, (first, second), rate) for x, first, second, rate in zip(*pieces, strict=False)]
        outputs, states = zip(*parts, strict=True)
        first, second = (torch.cat(each) for each in zip(*states, strict=True))
        return torch.cat(outputs), (first, second)

    def step(self, x: Tensor, state: State | None = None, rate: float | Tensor = 1.0) -> tuple[Tensor, State]:
        self.check_rate(rate)
        state = self.initial_state(len(x), x) if state is None else state
        y, state = self.advance(x.unsqueeze(1), state, each(rate, 1))
        return y.squeeze(1), state


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
        if x.shape[1] == self.weight.shape[1]:  # one sample: ten times as fast
            y = (x * self.weight.mT).sum(1, keepdim=True) + self.bias
        else:
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
