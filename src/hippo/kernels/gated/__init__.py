"""The gated network of `hippo.models.HiPPORNN` over a whole sequence: the only door, and which kernel serves."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hippo.kernels import cells
from hippo.kernels.common import gpus, native
from hippo.kernels.gated import naive
from hippo.kernels.gated.naive import gated as step_by_step
from hippo.kernels.gated.steps import LegSSteps, LTIStep, Step

__all__ = ["LTIStep", "LegSSteps", "Route", "Step", "choose", "gated", "route", "step_by_step"]

Route = Literal["naive", "cpu", "cell", "gpu"]
_ALIGNED = 16  # numbers; products of matrices whose rows are whole cache lines are faster
_routes: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def choose(inputs: Sequence[Tensor], steps: LegSSteps | LTIStep | None, gaps: Tensor | None = None) -> Route:
    """Return what serves: "cpu", the compiled loop; "cell", that of `hippo.kernels.cells`; "gpu", Triton and graphs;
    or "naive".

    Args:
        inputs: x, read, bias, written_x and write of `gated`.
        steps: Of the memory.
        gaps: As `gated` has them.
    """
    if steps is None or gaps is not None:
        return "naive"
    if gpus.serves(*inputs):
        return "gpu"
    if isinstance(steps, LTIStep):
        return "cell" if native.serves(*inputs) else "naive"
    return "cpu" if native.serves(*inputs, steps.step) else "naive"


def route(owner: object) -> str | None:
    """Return what has served an owner's latest sequence, one of "naive", "cpu", "cell", "gpu: graphs" and "gpu: kernel
    by kernel", which is slower; None if it has had none."""
    return _routes.get(owner)


def gated(
    x: Tensor,
    read: Tensor,
    bias: Tensor,
    written_x: Tensor,
    write: Tensor,
    steps: LegSSteps | LTIStep | None,
    transitions: Iterable[Step],
    owner: object,
    gaps: Tensor | None = None,
) -> Sequence[Tensor] | Tensor:
    """Return the hidden states (B, D) after each of L steps, L of them or (L, B, D) (arXiv 2008.07669, Figure 2):

        u_t = written_x_t + write · h_{t-1}
        c_t = Ā_t c_{t-1} + B̄_t u_t
        [g_t, z_t] = read [x_t, c_t] + bias
        h_t = h_{t-1} + σ(g_t) (tanh(z_t) − h_{t-1})

    with h_0 = c_0 = 0. Gradients of "cpu" and "gpu" are of first order only.

    Args:
        x: (L, B, C).
        read: (2D, C + N).
        bias: (2D,).
        written_x: (L, B).
        write: (D,).
        steps: The memory's steps in a form that kernels know; None where they have none.
        transitions: The same as L functions; drawn where no kernel serves.
        owner: Of the weights, such as a module: `route` knows it, and at its death graphs on a GPU are released.
        gaps: Time that each step stands for, (L, B, 1): then 1 − (1 − σ(g_t))^gap takes the place of σ(g_t), and no
            kernel serves. 1 where None.

    Raises:
        RuntimeError: In a backward pass of "cpu" or "gpu", if a gradient of higher order is asked for.
    """
    chosen = choose((x, read, bias, written_x, write), steps, gaps)
    _routes[owner] = chosen
    if isinstance(steps, LegSSteps) and chosen == "cpu":
        from hippo.kernels.gated import cpu  # numba, which takes half a second to load

        return cpu.gated(x, _row_weight(x, read, bias), written_x, write, steps)
    if steps is not None and chosen == "gpu":
        from hippo.kernels.gated import gpu  # it imports triton, which takes time that a CPU need not spend

        hidden, replayed = gpu.gated(x, _row_weight(x, read, bias), written_x, write, steps, owner)
        _routes[owner] = "gpu: graphs" if replayed else "gpu: kernel by kernel"
        return hidden
    read_x, read_c = read.tensor_split([x.shape[-1]], dim=1)
    from_x = torch.nn.functional.linear(x, read_x, bias)
    if isinstance(steps, LTIStep):
        if chosen == "cell":
            return cells.lmu(from_x, written_x, None, read_c, *steps, write, None)
        transitions = itertools.repeat(steps, len(x))
    return naive.gated(from_x, written_x, read_c, write, transitions, gaps)


def _row_weight(x: Tensor, read: Tensor, bias: Tensor) -> Tensor:
    """Return the weight (2D, R) of rows [c, x, 1, 0, …], whole cache lines long."""
    read_x, read_c = read.tensor_split([x.shape[-1]], dim=1)
    weight = torch.cat([read_c, read_x, bias.unsqueeze(-1)], dim=1)
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % _ALIGNED))
