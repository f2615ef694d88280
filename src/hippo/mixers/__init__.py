"""Layers that mix along time: (B, L, H) in, (B, L, H) out, each a node `layer` of `hippo.models.Stack`."""

from hippo.mixers.base import Mixer, TimeInvariant, by_steps, uniform
from hippo.mixers.lmu import LMU
from hippo.mixers.lru import LRU
from hippo.mixers.lssl import LSSL
from hippo.mixers.mamba import Mamba
from hippo.mixers.mamba2 import Mamba2
from hippo.mixers.retnet import RetNet
from hippo.mixers.rtf import RTF
from hippo.mixers.rwkv7 import RWKV7
from hippo.mixers.s4 import S4
from hippo.mixers.s4d import S4D
from hippo.mixers.s5 import S5
from hippo.mixers.scale import ScaleConvolution

__all__ = [
    "LMU",
    "LRU",
    "LSSL",
    "RTF",
    "RWKV7",
    "S4",
    "S4D",
    "S5",
    "Mamba",
    "Mamba2",
    "Mixer",
    "RetNet",
    "ScaleConvolution",
    "TimeInvariant",
    "by_steps",
    "uniform",
]
