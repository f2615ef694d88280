"""Sequence models: a padded batch (B, L, C) in, features (B, D) out."""

from hippo.models.base import SequenceModel
from hippo.models.gru import GRU
from hippo.models.hippo_rnn import HiPPORNN

__all__ = ["GRU", "HiPPORNN", "SequenceModel"]
