"""The gated recurrent unit (arXiv 1406.1078), on the framework's fused kernel."""

from torch import Tensor, nn

from hippo.models.base import SequenceModel


class GRU(SequenceModel):
    """One layer of `torch.nn.GRU`, with its default initialisation. Timestamps are not used.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
    """

    def __init__(self, input_size: int, hidden_size: int = 512) -> None:
        super().__init__(input_size, hidden_size)
        self.rnn = nn.GRU(input_size, hidden_size)

    def unroll(self, x: Tensor, timestamps: Tensor | None) -> Tensor:
        return self.rnn(x.transpose(0, 1))[0]
