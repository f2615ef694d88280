"""Datasets: a description in, three splits of tensors out."""

from hippo.data.base import Batch, DataError, SequenceDataset, Sequences, Splits
from hippo.data.digits import Digits
from hippo.data.mnist import MNIST

__all__ = ["MNIST", "Batch", "DataError", "Digits", "SequenceDataset", "Sequences", "Splits"]
