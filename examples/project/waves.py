"""Noisy waves of two forms, each of its own length."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hippo.data import Batch, SequenceDataset, Sequences, Splits


@dataclass(frozen=True, kw_only=True)
class Waves(SequenceDataset):
    sizes: tuple[int, int, int] = (300, 100, 100)
    longest: int = 60
    data_seed: int = 0

    def load(self, root: Path) -> Splits:
        """Return the splits; what lies in files would be read from below `root`, which is paths.data."""
        return Splits(*(self._split(part) for part in range(3)), classes=("round", "square"))

    def _split(self, part: int) -> Sequences:
        count, generator = self.sizes[part], torch.Generator().manual_seed(3 * self.data_seed + part)
        y = torch.randint(2, (count,), generator=generator)
        lengths = torch.randint(self.longest // 2, self.longest + 1, (count,), generator=generator)
        phase = 2 * torch.pi * torch.rand(count, 1, generator=generator)
        time = torch.arange(self.longest) / 5
        wave = torch.sin(time + phase)
        x = torch.where(y.unsqueeze(1) == 1, wave.sign(), wave)
        x = x + 0.1 * torch.randn(count, self.longest, generator=generator)
        padding = torch.arange(self.longest) >= lengths.unsqueeze(1)
        return Sequences(Batch(x.masked_fill(padding, 0).unsqueeze(-1), y, lengths=lengths))
