"""Band-limited white noise, to be given back as a whole: the function approximation of arXiv 2008.07669.

The authors' public code draws such functions as the library nengo does (`WhiteSignal`): normal coefficients of equal
variance for the frequencies above 0 and up to the highest, and a root mean square of 0.5. There 0.5 is the mean over
all functions; here every function is scaled to it, so that one unit serves all errors.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hippo.data.base import Batch, SequenceDataset, Sequences, Splits


def white_noise(count: int, length: int, cycles: int, seed: int, rms: float = 0.5) -> Tensor:
    """Return Gaussian white noise below a frequency, each signal a period of it, (count, length) in float64.

    The seed draws functions, whatever their sampling: those of one length are those of another, sampled otherwise.

    Args:
        count: Number of signals.
        length: Samples of each.
        cycles: Periods of the highest frequency in a signal.
        seed: Seed of the functions.
        rms: Root mean square of each signal; their mean is 0.

    Raises:
        ValueError: If there is no frequency, or there are fewer than two samples for each period of the highest.
    """
    if not 0 < cycles < length / 2:
        raise ValueError(f"{length} samples hold between 1 and {(length - 1) // 2} cycles, not {cycles}")
    generator = torch.Generator("cpu").manual_seed(seed)
    parts = torch.randn(count, 2, cycles, dtype=torch.float64, device="cpu", generator=generator)
    parts *= rms * length / math.sqrt(2) / parts.square().sum((1, 2), keepdim=True).sqrt()
    spectrum = torch.zeros(count, length // 2 + 1, dtype=torch.complex128, device="cpu")
    spectrum[:, 1 : cycles + 1] = torch.complex(*parts.unbind(1))
    return torch.fft.irfft(spectrum, length)


@dataclass(frozen=True, kw_only=True)
class WhiteNoise(SequenceDataset):
    """A function as it passes, and the target at its end: its values at equidistant times.

    Functions have mean 0 and root mean square 0.5, so an answer of 0 everywhere has a mean squared error of about 0.25.

    Args:
        batch_size: Sequences a step.
        length: Samples of a function.
        training_length: Samples of those that are trained and validated on: the same kind of function, sampled more
            coarsely, for what cannot be trained on millions of steps. `length` where None.
        cycles: Periods of the highest frequency: the functions have twice as many degrees of freedom.
        points: Values to be given back, between the first sample and the last.
        sizes: Functions to train on, to validate and to test on.
        data_seed: Seed of the functions.
    """

    length: int = 1_000_000
    training_length: int | None = None
    cycles: int = 100
    points: int = 1000
    sizes: tuple[int, int, int] = (1000, 100, 10)
    data_seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or min(self.sizes) < 1:
            raise ValueError(f"points and sizes must be at least 1, not {self.points} and {list(self.sizes)}")

    def load(self, root: Path) -> Splits:
        coarse = self.length if self.training_length is None else self.training_length
        return Splits(self._split(0, coarse), self._split(1, coarse), self._split(2, self.length))

    def _split(self, part: int, length: int) -> Sequences:
        signal = white_noise(self.sizes[part], length, self.cycles, 3 * self.data_seed + part).float()
        at = torch.linspace(0, length - 1, self.points, dtype=torch.float64, device="cpu").round().long()
        return Sequences(Batch(signal.unsqueeze(-1), signal[:, at]))
