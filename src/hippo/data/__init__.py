"""Datasets: a description in, three splits of tensors out."""

from hippo.extras import require

require("train", __name__)

from hippo.data.arrays import Arrays
from hippo.data.base import Batch, CurvePoint, DataError, Scaling, SequenceDataset, Sequences, Shifted, Splits
from hippo.data.character_trajectories import CharacterTrajectories
from hippo.data.digits import Digits
from hippo.data.mnist import MNIST
from hippo.data.sampling import Sampling
from hippo.data.white_noise import WhiteNoise, white_noise

__all__ = [
    "MNIST",
    "Arrays",
    "Batch",
    "CharacterTrajectories",
    "CurvePoint",
    "DataError",
    "Digits",
    "Sampling",
    "Scaling",
    "SequenceDataset",
    "Sequences",
    "Shifted",
    "Splits",
    "WhiteNoise",
    "white_noise",
]
