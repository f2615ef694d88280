"""Sequence models: a padded batch (B, L, C) in, features (B, D) out."""

from hippo.models.base import SequenceModel
from hippo.models.exprnn import ExpRNN
from hippo.models.fru import FRU
from hippo.models.gru_gaps import GRUD, GRUDt
from hippo.models.hippo_rnn import HiPPORNN
from hippo.models.lmu import LMU
from hippo.models.lmu_fft import LMUFFT
from hippo.models.memory import Memory
from hippo.models.neural_cde import NeuralCDE
from hippo.models.ode_rnn import ODERNN
from hippo.models.rnn import GRU, LSTM, MGU, RNN
from hippo.models.stack import Stack, StackState
from hippo.models.transformer import Transformer

__all__ = [
    "FRU",
    "GRU",
    "GRUD",
    "LMU",
    "LMUFFT",
    "LSTM",
    "MGU",
    "ODERNN",
    "RNN",
    "ExpRNN",
    "GRUDt",
    "HiPPORNN",
    "Memory",
    "NeuralCDE",
    "SequenceModel",
    "Stack",
    "StackState",
    "Transformer",
]
