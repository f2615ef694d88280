"""Layers that mix along time: (B, L, H) in, (B, L, H) out, each a node `layer` of `hippo.models.Stack`."""

from hippo.mixers.base import Mixer, TimeInvariant, by_steps, uniform
from hippo.mixers.lmu import LMU
from hippo.mixers.lru import LRU
from hippo.mixers.rtf import RTF
from hippo.mixers.s4 import S4
from hippo.mixers.s4d import S4D
from hippo.mixers.s5 import S5

__all__ = ["LMU", "LRU", "RTF", "S4", "S4D", "S5", "Mixer", "TimeInvariant", "by_steps", "uniform"]
