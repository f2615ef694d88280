"""Recurrent networks over a whole sequence as compiled loops for the CPU, each with its own backward pass.

A cell's `advance` takes some of the samples through all steps, and `retreat` takes their gradients back; the gradients
of the weights are large products at the end. All equal the plain loops in `hippo.models`, which serve where there are
no compiled ones, and for gradients of higher order.

Shapes: what the input brings to each step (L, B, Z), `hidden`, the state before the first step and after each,
(L + 1, B, D), what is `kept` for the way back (L or 2, B, K), weights (out, in).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hippo.kernels.common import buffers as room
from hippo.kernels.common import compile as jit
from hippo.kernels.common import products

Reference = Callable[..., Sequence[Tensor]]


class Cell(NamedTuple):
    """A recurrent network.

    Attributes:
        advance: To be compiled, of: from_x, inputs, hidden, kept, scratch, constants; see `products.share`.
        retreat: To be compiled, of: inputs, hidden, kept, grad_h, scratch, gradients, constants.
        sizes: The numbers that both get, D and Z first, of the inputs.
        kept: Of those, what is kept for a step and a sample.
        scratch: Of those, what is needed beside for a sample.
        filled: Of from_x and the inputs, the gradients that `retreat` fills; the first is from_x's.
        gradients: Of inputs, hidden, kept and what is filled, the inputs' gradients.
    """

    advance: Callable
    retreat: Callable
    sizes: Callable[..., tuple[int, ...]]
    kept: Callable[..., int]
    scratch: Callable[..., int]
    filled: Callable[..., list[Tensor]]
    gradients: Callable[..., tuple[Tensor | None, ...]]


@jit.opaque
def serves(*tensors: Tensor | None) -> bool:
    """Return whether there are compiled loops for such tensors."""
    given = [value for value in tensors if value is not None]
    return products.library() is not None and all(map(jit.serves, given)) and len({v.dtype for v in given}) == 1


@jit.opaque
def unroll(cell: Cell, reference: Reference, from_x: Tensor, *inputs: Tensor | None) -> Sequence[Tensor]:
    """Return the hidden states (B, D) after each of L steps, those of `reference(from_x, *inputs)`, from h_0 = 0. They
    share memory, and are not to be changed in place.

    Args:
        cell: What is computed.
        reference: The same, in tensor operations.
        from_x: (L, B, Z).
        inputs: See the cell.
    """
    if not serves(from_x, *inputs):
        return reference(from_x, *inputs)
    return _Unrolled.apply(cell, reference, torch.is_grad_enabled(), from_x, *inputs)  # type: ignore[return-value]


class _Unrolled(torch.autograd.Function):
    """from_x (L, B, Z) and a cell's inputs ↦ L hidden states (B, D)."""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, reference: Reference, recording: bool, from_x: Tensor, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.reference = cell, reference
        (length, batch, _), sizes = from_x.shape, cell.sizes(*inputs)
        steps = length if recording and any(ctx.needs_input_grad) else 2
        shapes = (length + 1, batch, sizes[0]), (steps, batch, cell.kept(*sizes))
        hidden, kept = (room.empty(math.prod(shape), from_x).view(shape) for shape in shapes)
        hidden[0].zero_()
        scratch, constants = from_x.new_zeros(cell.scratch(*sizes), batch), products.constants(from_x.dtype)
        arrays = [*_arrays(from_x, *inputs), hidden, kept, scratch, constants]
        shares = products.shares(batch, products.threads(batch))
        products.share(cell.advance, arrays, [], 0.0, (*sizes, batch, length, steps), shares)
        ctx.save_for_backward(from_x, *inputs, hidden, kept)
        return hidden[1:].unbind()

    @staticmethod
    def backward(ctx: Any, *grad_hidden: Any) -> tuple[Tensor | None, ...]:
        (*given, hidden, kept), cell = ctx.saved_tensors, ctx.cell
        tops = [t for t, grad in enumerate(grad_hidden) if grad is not None]
        if not tops:
            return (None,) * (3 + len(given))
        batched = torch._C._functorch.is_legacy_batchedtensor
        if torch.is_grad_enabled() or any(batched(grad_hidden[t]) or not jit.serves(grad_hidden[t]) for t in tops):
            return None, None, None, *_by_reference(ctx.reference, given, ctx.needs_input_grad[3:], grad_hidden)
        hidden, kept, (from_x, *inputs) = hidden.contiguous(), kept.contiguous(), given
        batch, sizes = from_x.shape[1], cell.sizes(*inputs)
        filled = cell.filled(from_x, *inputs)
        for grad in filled:
            grad[tops[-1] + 1 :] = 0
        grad_h, scratch = from_x.new_zeros(batch, sizes[0]), from_x.new_zeros(cell.scratch(*sizes), batch)
        arrays = [*_arrays(*inputs), hidden, kept, grad_h, scratch, *filled, products.constants(from_x.dtype)]
        shares = products.shares(batch, products.threads(batch))
        for top, below in itertools.pairwise([*tops[::-1], -1]):
            grad_h += grad_hidden[top]
            products.share(cell.retreat, arrays, [], 0.0, (*sizes, batch, below + 1, top), shares)
        if not any(ctx.needs_input_grad[4:]):
            return None, None, None, filled[0], *[None] * len(inputs)
        return None, None, None, filled[0], *cell.gradients(inputs, hidden, kept, filled)


def _arrays(*given: Tensor | None) -> list[Tensor]:
    return [torch.empty(0, device="cpu") if value is None else value.contiguous() for value in given]


def _by_reference(
    reference: Reference, given: Sequence[Tensor | None], needed: Sequence[bool], grad_hidden: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of what was given, with a graph of their own if that is asked for, or batched."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, for one of what was given may depend on another, and these gradients are to be apart.
        given = [None if value is None else value.view_as(value) for value in given]
        pairs = [pair for pair in zip(reference(*given), grad_hidden, strict=True) if pair[1] is not None]
        wanted = [value for value, wanted in zip(given, needed, strict=True) if wanted]
        states, grads = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(states, wanted, grads, create_graph=recorded, allow_unused=True))  # type: ignore[arg-type]
    return [next(found) if wanted else None for wanted in needed]


def weight_gradient(grad: Tensor, read: Tensor) -> Tensor:
    """Return the gradient of weights (Z, K), from that of their products (L, B, Z), and what they read (L, B, K)."""
    return grad.flatten(0, 1).mT @ read.flatten(0, 1)


def like(*tensors: Tensor) -> list[Tensor]:
    """Return room for tensors of the same shapes."""
    return [room.empty(value.numel(), value).view(value.shape) for value in tensors]
