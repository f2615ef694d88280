"""Layers that mix along time: (B, L, H) in, (B, L, H) out, each a node `layer` of `hippo.models.Stack`."""

from hippo.mixers.base import Mixer, TimeInvariant, by_steps, uniform
from hippo.mixers.lru import LRU
from hippo.mixers.mamba import Mamba
from hippo.mixers.mamba2 import Mamba2
from hippo.mixers.retnet import RetNet
from hippo.mixers.rwkv7 import RWKV7

__all__ = ["LRU", "RWKV7", "Mamba", "Mamba2", "Mixer", "RetNet", "TimeInvariant", "by_steps", "uniform"]
