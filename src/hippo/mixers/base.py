"""The one interface of all layers that mix along time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")


class Mixer(nn.Module, ABC):
    """A causal layer that reads a sequence (B, L, H) and returns one of the same shape.

    A whole sequence, chunks with carried state and single steps are the same map. The state is a tensor or a nested
    tuple of tensors whose first axis is the batch; what it holds is the layer's own business.

    Args:
        features: H.

    Attributes:
        dynamics: Names of the parameters that make the dynamics: they take a learning rate of their own and no
            weight decay.
        rate_rule: One sentence: what a rate does to this layer, or why it can do nothing.
        takes_rate: Whether a rate other than 1 means something to this layer.
        takes_gaps: Whether the rate may differ from sample to sample.
        prepared_now: Whether `prepared` was called just before, by `Stack.compiled_step`, for what torch.compile reads.
    """

    dynamics: ClassVar[tuple[str, ...]] = ()
    rate_rule: ClassVar[str]
    takes_rate: ClassVar[bool] = False
    takes_gaps: ClassVar[bool] = False

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, not {features}")
        self.features = features
        self._constants: dict[Hashable, tuple[Any, Any]] = {}
        self.prepared_now = False

    def place(self, index: int, depth: int) -> None:
        """Tell the layer, once, that it is number `index` of `depth`. Most layers do not care."""

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Any]:
        """Return the outputs for a whole sequence, or for its next chunk.

        Args:
            x: (B, L, H).
            state: What an earlier call returned, or `initial_state`. None starts anew and asks for no state: the one
                returned may then be None, since computing it has a cost.
            rate: Factor on the time step: 2 where the samples are twice as far apart as in training. A number, or a
                tensor (B, L), the gap before each sample, which is at least 0.

        Returns:
            Outputs (B, L, H), and the state after the last sample.

        Raises:
            ValueError: If the layer has no rule for this rate.
        """

    def last(self, x: Tensor, rate: float | Tensor = 1.0) -> Tensor:
        """Return the output for the last sample alone, (B, H), of a whole sequence. A layer may have a shorter way."""
        return self.forward(x, None, rate)[0][:, -1]

    @abstractmethod
    def step(self, x: Tensor, state: Any = None, rate: float | Tensor = 1.0) -> tuple[Tensor, Any]:
        """Return the output for one sample and the next state, in constant memory: one step of `forward`.

        Args:
            x: (B, H).
            state: What an earlier call returned; None starts anew.
            rate: A number, or a tensor (B,).

        Returns:
            Output (B, H), and the state.
        """

    def prepared(self, rate: float | None) -> Any:
        """Make and keep what a step at a rate needs besides the parameters, by `constants`. None: the rate is a tensor.
        Most layers need nothing."""
        return None

    @abstractmethod
    def initial_state(self, batch: int, like: Tensor) -> Any:
        """Return the state before the first sample, for `batch` sequences, in the dtype and on the device of `like`."""

    def constants(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` makes of the parameters, once for each key where no gradient is wanted.

        A step of one sequence takes 13 to 39 µs with it; without, 50 (LRU, S5), 190 (S4D) and 20,000 (S4 and RTF, of
        which the readout takes a power of a matrix). Versions of parameters are PyTorch's private matter, but nothing
        else tells whether an optimizer has changed them. torch.compile cannot ask for them: `Stack.compiled_step` does,
        before each step, and what it has compiled reads what was kept.
        """
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return make()
        if torch.compiler.is_dynamo_compiling():
            return self._constants[key][1] if self.prepared_now and key in self._constants else make()
        try:
            now = tuple((p.data_ptr(), p._version) for p in self.parameters())
        except RuntimeError:  # parameters made in inference mode have no versions, those of an ensemble no address
            return make()
        before, made = self._constants.get(key, (None, None))
        if before != now:
            made = make()
            self._constants = {key: (now, made)}
        return made

    def check_rate(self, rate: float | Tensor) -> None:
        """Raise ValueError unless the layer has a rule for this rate."""
        if isinstance(rate, Tensor):
            if not self.takes_gaps:
                raise ValueError(f"{type(self).__name__} takes no rate for each sample. {self.rate_rule}")
        elif rate != 1 and not self.takes_rate:
            raise ValueError(f"{type(self).__name__} takes no rate but 1, not {rate}. {self.rate_rule}")
        elif not 0 < rate < float("inf"):
            raise ValueError(f"rate must be above 0 and finite, not {rate}")


class TimeInvariant(Mixer):
    """A mixer that is a convolution of every feature with a kernel of its own, as long as the rate is one number."""

    @abstractmethod
    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        """Return the response to an impulse, (H, L): output l of a feature that is 1 at sample 0 and 0 after it."""


def uniform(rate: float | Tensor) -> float | Tensor:
    """Return the number that all entries of a tensor of rates are, where they are one; else the tensor.

    Raises:
        ValueError: Under `torch.export`, of a tensor: how its entries are dealt with depends on their values.
    """
    if isinstance(rate, Tensor) and torch.compiler.is_exporting():
        raise ValueError("torch.export cannot follow a layer whose steps depend on timestamps; export it without them")
    if isinstance(rate, Tensor) and bool((rate == (first := rate.flatten()[0])).all()) and first > 0:
        return first.item()
    return rate


def by_steps(mixer: Mixer, x: Tensor, state: Any, rate: float | Tensor = 1.0) -> tuple[Tensor, Any]:
    """Return what `mixer.forward` would, step by step: the reference of every other form."""
    state = mixer.initial_state(len(x), x) if state is None else state
    outputs = []
    for k, x_k in enumerate(x.unbind(1)):
        y, state = mixer.step(x_k, state, rate[:, k] if isinstance(rate, Tensor) else rate)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state
