"""A small Transformer encoder (arXiv 1706.03762): the comparison that sees the whole sequence at once."""

import math

import torch
from torch import Tensor, nn

from hippo.models.base import SequenceModel, positive


class Transformer(SequenceModel):
    """`torch.nn.TransformerEncoder` on embedded steps with sinusoidal positions, averaged over the sequence.

    Every step sees every other; normalization comes first, so that no warm-up is needed. Timestamps are not used.

    Args:
        input_size: Channels C.
        hidden_size: Features D, even, and a multiple of `heads`.
        layers: Encoder layers.
        heads: Attention heads.
        feedforward_size: Width of the layers' networks; 4 D where None.
        dropout: Of everything but the input.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 128,
        layers: int = 4,
        heads: int = 8,
        feedforward_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive(layers=layers, heads=heads, feedforward_size=1 if feedforward_size is None else feedforward_size)
        if hidden_size % heads or hidden_size % 2:
            raise ValueError(f"hidden_size={hidden_size} must be even and a multiple of heads={heads}")
        self.embed = nn.Linear(input_size, hidden_size)
        layer = nn.TransformerEncoderLayer(
            hidden_size,
            heads,
            4 * hidden_size if feedforward_size is None else feedforward_size,
            dropout,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden_size), enable_nested_tensor=False)

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        z = self.embed(x) + self._positions(x)
        if lengths is None:
            return self.encoder(z).mean(1)
        padding = torch.arange(x.shape[1], device=x.device) >= lengths.unsqueeze(1)
        z = self.encoder(z, src_key_padding_mask=padding)
        return z.masked_fill(padding.unsqueeze(-1), 0.0).sum(1) / lengths.unsqueeze(1)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        raise NotImplementedError("a Transformer has no state after each step")

    def _positions(self, x: Tensor) -> Tensor:
        """Sine and cosine of the step's index at geometrically spaced frequencies, (L, D)."""
        half = self.hidden_size // 2
        single_at_least = torch.promote_types(x.dtype, torch.float32)
        steps, pairs = (torch.arange(n, dtype=single_at_least, device=x.device) for n in (x.shape[1], half))
        angle = steps.unsqueeze(-1) * torch.exp(-math.log(10_000.0) * pairs / half)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1).to(x)
