"""scikit-learn's 8×8 digits (UCI Optical Recognition of Handwritten Digits), pixel by pixel: real and embedded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hippo.data.base import Batch, Scaling, SequenceDataset, Sequences, Splits, steps
from hippo.data.permutation import Permutation, in_order, pixel_order


@dataclass(frozen=True, kw_only=True)
class Digits(SequenceDataset):
    """1,797 digits as sequences of 64 pixels in [0, 1]; 70 / 15 / 15 % for train, validation and test, stratified.

    Args:
        batch_size: Sequences a step.
        permutation: Order of the pixels.
        permutation_seed: Seed of the "random" permutation.
        split_seed: Seed of the split.
        timestamps: Whether step k carries the timestamp k.
    """

    permutation: Permutation = "bit_reversal"
    permutation_seed: int = 0
    split_seed: int = 0
    timestamps: bool = False

    def load(self, root: Path) -> Splits:
        pixels, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(pixels).unsqueeze(-1)
        y = torch.from_numpy(labels).long()
        train, rest = train_test_split(range(len(y)), train_size=0.7, stratify=y, random_state=self.split_seed)
        validation, test = train_test_split(rest, train_size=0.5, stratify=y[rest], random_state=self.split_seed)
        return Splits(
            *(Sequences(self.prepare(Batch(x[rows], y[rows]), None)) for rows in (train, validation, test)),
            classes=tuple(str(digit) for digit in range(10)),
        )

    def prepare(self, raw: Batch, scaling: Scaling | None) -> Batch:
        """Return images (B, 64, 1), row by row and from 0 to 16, as a model gets them."""
        order = pixel_order(self.permutation, 64, self.permutation_seed)
        return steps(in_order(raw, order).float() / 16, raw.y, self.timestamps)
