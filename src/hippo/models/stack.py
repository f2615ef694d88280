"""A deep network of layers that mix along time, and of what stands between them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from hippo.mixers.base import Mixer
from hippo.models.base import SequenceModel, gaps, positive, positive_time


class StackState(NamedTuple):
    """What a `Stack` carries from one chunk of a sequence to the next.

    Attributes:
        mixers: The states of the mixers.
        total: Weighted sum of the outputs of all steps so far (B, H); the last one alone where the pooling is "last".
        weight: Sum of the weights (B,).
        time: Timestamp of the last step (B,), or None where there are none.
    """

    mixers: tuple[Any, ...]
    total: Tensor
    weight: Tensor
    time: Tensor | None


torch.serialization.add_safe_globals([StackState])  # for torch.load(…, weights_only=True)


class Stack(SequenceModel):
    """encoder → depth × (norm → mixer → GELU → dropout → gated mix of the channels → dropout → + input) → pooling.

    The block of S4 (arXiv 2111.00396), which S4D, S5, LRU and RTF share. Timestamps are read where the mixer has a
    rule for gaps: the gap before a sample, in units of `unit`, is the factor on its time step; that of the first sample
    is 1. Without timestamps every sample counts as one step.

    Args:
        input_size: Channels C.
        hidden_size: Features H.
        layer: Makes a mixer, called with features=H.
        depth: Number of blocks.
        norm: "layer", or "batch", whose statistics are those of valid steps only.
        prenorm: Whether the norm stands before the mixer, and once more at the end; else after the sum.
        mix: "glu" is the block above; "none" leaves out what follows the mixer up to the sum, for mixers that mix
            channels themselves.
        dropout: Fraction of the features left out, the same at all steps of a sequence.
        pooling: "mean" over the valid steps, or the "last" of them, or the mean over "time", in which each step has the
            gap before it as its weight, and the first that of the second. Without timestamps it is the mean over steps.
        unit: Time that counts as one step, in the unit of the timestamps.
        rate: Factor on every time step, to tell the model of a sampling rate other than in training: 2 where samples
            are twice as far apart. It multiplies what timestamps say. May be set later.
        dynamics_lr: Factor on the learning rate of the mixers' dynamics.
        last_layer: Makes the mixer of the last block, as `layer` those of the others; None for one of the same kind.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layer: Callable[..., Mixer],
        depth: int = 4,
        norm: Literal["layer", "batch"] = "layer",
        prenorm: bool = True,
        mix: Literal["glu", "none"] = "glu",
        dropout: float = 0.0,
        pooling: Literal["mean", "last", "time"] = "mean",
        unit: float = 1.0,
        rate: float = 1.0,
        dynamics_lr: float = 1.0,
        last_layer: Callable[..., Mixer] | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive(depth=depth)
        positive_time(unit=unit, rate=rate, dynamics_lr=dynamics_lr)
        for name, value, known in (
            ("norm", norm, ("layer", "batch")),
            ("mix", mix, ("glu", "none")),
            ("pooling", pooling, ("mean", "last", "time")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a fraction, at least 0 and below 1, not {dropout}")
        self.encoder = nn.Linear(input_size, hidden_size)
        layers = [layer] * (depth - 1) + [layer if last_layer is None else last_layer]
        for each in layers:
            if isinstance(each, nn.Module) or not callable(each):
                raise ValueError(f"a layer is what makes a Mixer when called with features=…, not {each!r}")
        self.blocks = nn.ModuleList(
            _Block(each(features=hidden_size), hidden_size, norm, prenorm, mix, dropout) for each in layers
        )
        for index, mixer in enumerate(self.mixers):
            if not isinstance(mixer, Mixer):
                raise ValueError(f"a layer must be a Mixer, not a {type(mixer).__name__}")
            mixer.place(index, depth)
        self.norm = _Norm(hidden_size, norm) if prenorm else nn.Identity()
        self.pooling, self.unit, self.rate = pooling, unit, rate
        self.uses_timestamps = all(mixer.takes_gaps for mixer in self.mixers)
        self.undecayed = frozenset(
            f"blocks.{index}.mixer.{name}" for index, mixer in enumerate(self.mixers) for name in mixer.dynamics
        )
        self.lr_factors = dict.fromkeys(self.undecayed, dynamics_lr)  # pyrefly: ignore[read-only]
        for mixer in self.mixers:
            mixer.check_rate(rate)

    @property
    def mixers(self) -> list[Mixer]:
        """The mixers, in their order."""
        return [cast(_Block, block).mixer for block in self.blocks]

    def encode(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        rate = self._rates(x, timestamps, None)
        if isinstance(rate, Tensor) and lengths is not None:  # what stands in the padding need not look irregular
            rate = torch.where(_valid(x, lengths), rate, rate[:, :1])
        if self.pooling == "last" and lengths is None and isinstance(self.norm, _Norm) and not self.norm.by_batch:
            return self._last(x, rate)
        z, _ = self._run(x, rate, lengths, None)
        if self.pooling == "last":
            return z[:, -1] if lengths is None else z[torch.arange(len(z), device=z.device), lengths - 1]
        if self.pooling == "time" and isinstance(rate, Tensor):
            valid = None if lengths is None else _valid(z, lengths)
            return _mean_over_time(z, rate, valid, None)[0]
        if lengths is None:
            return z.mean(1)
        return z.masked_fill(~_valid(z, lengths).unsqueeze(-1), 0.0).sum(1) / lengths.unsqueeze(1)

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the outputs of the last block after each step, (B, L, H), before any pooling."""
        return self._run(x, self._rates(x, timestamps, None), None, None)[0]

    def stream(
        self, x: Tensor, timestamps: Tensor | None = None, *, state: StackState | None = None
    ) -> tuple[Tensor, StackState]:
        """Return the features after the next chunk of sequences that come in pieces, and what to pass with the next.

        Memory does not grow with what came before. In one piece or in several, the features are those of `forward`.

        Args:
            x: The next chunk (B, L, C).
            timestamps: (B, L), in all calls or in none.
            state: What an earlier call returned; None for the first chunk.

        Returns:
            Features (B, H), and the state.

        Raises:
            ValueError: If a chunk has timestamps and the one before had not, or the other way round; or something else
                stands in the place of timestamps or state.
        """
        self._check_kinds(timestamps, state)
        before = None if state is None else state.time
        mixers = tuple(m.initial_state(len(x), x) for m in self.mixers) if state is None else state.mixers
        rate = self._rates(x, timestamps, before)
        z, mixers = self._run(x, rate, None, mixers)
        time = timestamps[:, -1] if timestamps is not None and self.uses_timestamps else None
        features, total, weight = self._pool(z, rate, state)
        return features, StackState(mixers, total, weight, time)

    def step(
        self, x: Tensor, timestamps: Tensor | None = None, *, state: StackState | None = None
    ) -> tuple[Tensor, StackState]:
        """Return the features after one more sample (B, C) at times (B,), and the state: `stream` of one sample."""
        return self._step(x, timestamps, state, self._through)

    def compiled_step(self, **options: Any) -> Callable[..., tuple[Tensor, StackState]]:
        """Return `step` as one program, for a network at work: with the same arguments, two to six times as fast.

        torch.compile, which takes the options, makes the program at the second sample, in 5 to 30 s; another for the
        second size of batches, for each rate, and for timestamps. After eight of them, for all networks of a process,
        the rest runs as `step` does. Parameters may change: those at each step count. Call it under torch.no_grad():
        with gradients nothing is kept from one step to the next. Of a `ScaleConvolution`, whose own step is compiled
        already, `step` is the faster one.
        """
        compiled = torch.compile(self._through, **options)

        def through(x: Tensor, rate: float | Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
            if state is None:  # which would take a program of its own
                return self._through(x, rate, state)
            if torch.is_grad_enabled():
                return compiled(x, rate, state)
            try:
                with _as_written(x):
                    for mixer in self.mixers:
                        mixer.prepared(None if isinstance(rate, Tensor) else rate)
                        mixer.prepared_now = True
                return compiled(x, rate, state)
            finally:
                for mixer in self.mixers:
                    mixer.prepared_now = False

        def step(
            x: Tensor, timestamps: Tensor | None = None, *, state: StackState | None = None
        ) -> tuple[Tensor, StackState]:
            return self._step(x, timestamps, state, through)

        return step

    def _step(
        self, x: Tensor, timestamps: Tensor | None, state: StackState | None, through: Callable[..., Any]
    ) -> tuple[Tensor, StackState]:
        self._check_kinds(timestamps, state)
        rate: float | Tensor = self.rate
        if timestamps is not None and self.uses_timestamps:
            before = None if state is None else state.time
            rate = self._rates(x.unsqueeze(1), timestamps.unsqueeze(1), before)
            rate = rate.squeeze(1) if isinstance(rate, Tensor) else rate
        else:
            timestamps = None
        features, after = through(x, rate, state)
        return features, after._replace(time=timestamps)

    def _through(self, x: Tensor, rate: float | Tensor, state: StackState | None) -> tuple[Tensor, StackState]:
        """Return the features after one more sample (B, C), and the state, but for its time."""
        mixers = (None,) * len(self.blocks) if state is None else state.mixers
        z, states = self.encoder(x), []
        for block, mixer_state in zip(self.blocks, mixers, strict=True):
            z, mixer_state = cast(_Block, block).step(z, mixer_state, rate)
            states.append(mixer_state)
        gaps = rate.unsqueeze(1) if isinstance(rate, Tensor) else rate
        features, total, weight = self._pool(self.norm(z).unsqueeze(1), gaps, state)
        return features, StackState(tuple(states), total, weight, None)

    def _pool(self, z: Tensor, rate: float | Tensor, state: StackState | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features after outputs z (B, L, H) and those before, and the total and weight to carry on with."""
        if self.pooling == "last":
            return z[:, -1], z[:, -1], z.new_ones(len(z))
        if self.pooling == "time" and isinstance(rate, Tensor):
            return _mean_over_time(z, rate, None, state)
        total, weight = z.sum(1), z.new_full((len(z),), z.shape[1])
        if state is not None:
            total, weight = state.total + total, state.weight + weight
        return total / weight.unsqueeze(1), total, weight

    def _check_kinds(self, timestamps: Tensor | None, state: StackState | None) -> None:
        if isinstance(timestamps, StackState):
            raise ValueError("timestamps must be a tensor, not a state; pass a state by its name, state=…")
        if state is None:
            return
        if not isinstance(state, StackState):
            raise ValueError(f"state must be what an earlier call returned, not {type(state).__name__}")
        if (state.time is None) != (timestamps is None or not self.uses_timestamps):
            raise ValueError("timestamps go with all of a sequence or with none of it")

    def _run(
        self, x: Tensor, rate: float | Tensor, lengths: Tensor | None, states: tuple[Any, ...] | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Return the outputs of the last block (B, L, H), and the states after the last step where there were some."""
        z = self.encoder(x)
        valid = None if lengths is None else _valid(z, lengths)
        after = []
        for index, block in enumerate(self.blocks):
            z, state = block(z, None if states is None else states[index], rate, valid)
            after.append(state)
        return self.norm(z, valid) if isinstance(self.norm, _Norm) else z, tuple(after)

    def _last(self, x: Tensor, rate: float | Tensor) -> Tensor:
        """Return the output of the last block after the last step (B, H), where no norm sees other steps."""
        z = self.encoder(x)
        *blocks, top = (cast(_Block, block) for block in self.blocks)
        for block in blocks:
            z, _ = block(z, None, rate, None)
        return self.norm(top.last(z, rate))

    def _rates(self, x: Tensor, timestamps: Tensor | None, before: Tensor | None) -> float | Tensor:
        """Return the factor on each time step, (B, L), or one number for all. `before` is the time before the first."""
        if timestamps is None or not self.uses_timestamps:
            return self.rate
        elapsed = gaps(timestamps, like=x) / self.unit
        elapsed[:, 0] = 1.0 if before is None else (timestamps[:, 0] - before).to(x) / self.unit
        return elapsed * self.rate


class _Block(nn.Module):
    """One block of a `Stack`."""

    def __init__(self, mixer: Mixer, features: int, norm: str, prenorm: bool, mix: str, dropout: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = _Norm(features, norm)
        self.prenorm = prenorm
        self.mix = nn.Linear(features, 2 * features) if mix == "glu" else None
        self.dropout = dropout

    def forward(self, x: Tensor, state: Any, rate: float | Tensor, valid: Tensor | None) -> tuple[Tensor, Any]:
        y = self.norm(x, valid) if self.prenorm else x
        with _as_written(x):
            y, state = self.mixer(y.to(self.dtype), state, rate)
        y = x + self._after(y)
        return y if self.prenorm else self.norm(y, valid), state

    def last(self, x: Tensor, rate: float | Tensor) -> Tensor:
        """Return the output for the last sample alone, with the norm before the mixer."""
        y = self.norm(x)
        with _as_written(x):
            y = self.mixer.last(y.to(self.dtype), rate)
        return x[:, -1] + self._after(y)

    def step(self, x: Tensor, state: Any, rate: float | Tensor) -> tuple[Tensor, Any]:
        y = self.norm(x) if self.prenorm else x
        with _as_written(x):
            y, state = self.mixer.step(y.to(self.dtype), state, rate)
        y = x + self._after(y)
        return y if self.prenorm else self.norm(y), state

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.norm.norm.weight.dtype

    def _after(self, y: Tensor) -> Tensor:
        if self.mix is not None:
            y = nn.functional.glu(self.mix(self._drop(nn.functional.gelu(y))), dim=-1)
        return self._drop(y)

    def _drop(self, y: Tensor) -> Tensor:
        """Leave out features of each sequence, the same at all its steps."""
        if not (self.training and self.dropout):
            return y
        mask = torch.empty(len(y), *(1,) * (y.dim() - 2), y.shape[-1], dtype=y.dtype, device=y.device)
        return y * mask.bernoulli_(1 - self.dropout).div_(1 - self.dropout)


def _as_written(x: Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from a mixer: its dynamics need the digits, and so do FFTs and complex numbers. Where there is no
    autocast nothing is done, for a step through four blocks then takes 0.78 (LRU) to 0.97 (Mamba) of the time."""
    kind = x.device.type
    active = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if active else nullcontext()


class _Norm(nn.Module):
    """Layer norm, or batch norm over the valid steps of a batch."""

    def __init__(self, features: int, kind: str) -> None:
        super().__init__()
        self.by_batch = kind == "batch"
        self.norm = nn.BatchNorm1d(features) if self.by_batch else nn.LayerNorm(features)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if not self.by_batch:
            return self.norm(x)
        if valid is None or not self.training:
            return self.norm(x.reshape(-1, x.shape[-1])).view_as(x)
        return x.masked_scatter(valid.unsqueeze(-1), self.norm(x[valid]))


def _valid(x: Tensor, lengths: Tensor) -> Tensor:
    """Return which steps lie within the lengths (B,), (B, L)."""
    return torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)


def _mean_over_time(
    z: Tensor, gaps: Tensor, valid: Tensor | None, state: StackState | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of outputs z (B, L, H) with the gaps before them as weights, the total and the sum of weights.

    The first output has the weight of the next one that has any. Before that comes, the sum of weights is 0, and the
    total stands for the first output.
    """
    if state is None:
        total, weight = z[:, 0], gaps.new_zeros(len(z))
        gaps = torch.cat([torch.zeros_like(gaps[:, :1]), gaps[:, 1:]], dim=1)
    else:
        total, weight = state.total, state.weight
    if valid is not None:
        gaps, z = gaps * valid, z.masked_fill(~valid.unsqueeze(-1), 0.0)
    next_gap = gaps.gather(1, (gaps > 0).to(torch.uint8).argmax(1, keepdim=True)).squeeze(1)
    before = torch.where(weight > 0, weight, next_gap)
    scale = torch.where((weight > 0) | (next_gap == 0), 1.0, next_gap)
    total = total * scale.unsqueeze(1).to(z) + (gaps.unsqueeze(1).to(z) @ z).squeeze(1)
    weight = before + gaps.sum(1)
    return total / torch.where(weight > 0, weight, 1.0).unsqueeze(1).to(z), total, weight
