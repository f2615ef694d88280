"""A hidden state that follows an ODE between observations (Rubanova, Chen and Duvenaud 2019, arXiv 1907.03907)."""

from typing import Any, cast

import torch
import torchdiffeq
from torch import Tensor, nn

from hippo.kernels import cells
from hippo.models.base import SequenceModel, gaps, positive, positive_time, with_mask
from hippo.models.solver import Counted, check_method, refuse_export, told


class ODERNN(SequenceModel):
    """ODE-RNN: dh/dt = W_2 tanh(W_1 h + b_1) + b_2 between observations, a GRU of [x, mask] at each (Algorithm 1).

    Every sequence of a batch has its own gaps, so each gap is integrated as one unit of time, the field multiplied by
    its length. Steps are fixed, hence sequences do not influence each other; an adaptive method chooses one step for
    the whole batch.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        field_size: Width of the field's hidden layer; the hidden size where None.
        unit: Unit of time of the ODE, in that of the timestamps. The field is drawn to change h by about its
            own size in one such unit, so a sequence should not be many of them.
        method: A solver of torchdiffeq: "euler" as in the paper's code, "midpoint", "rk4", "dopri5", ….
        steps: Steps of the solver in each gap.
        adjoint: Whether gradients come from the adjoint ODE, in memory that does not grow with `steps`, but with the
            solver's error.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    needs_timestamps = uses_timestamps = True
    takes_channel_mask = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 512,
        field_size: int | None = None,
        unit: float = 200.0,
        method: str = "euler",
        steps: int = 1,
        adjoint: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size)
        field_size = hidden_size if field_size is None else field_size
        positive(field_size=field_size, steps=steps)
        positive_time(unit=unit)
        check_method(method, steps)
        self.field = nn.Sequential(nn.Linear(hidden_size, field_size), nn.Tanh(), nn.Linear(field_size, hidden_size))
        self.cell = nn.GRUCell(2 * input_size, hidden_size)
        self.unit = unit
        self.method = method
        self.steps = steps
        self.adjoint = adjoint

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        refuse_export()
        grid = torch.linspace(0, 1, self.steps + 1, dtype=x.dtype, device=x.device)
        calls = 0

        def evolve(h: Tensor, gap: Tensor) -> Tensor:
            """Return h (B, D) after a gap (B, 1)."""

            nonlocal calls
            field, solution = Counted(lambda h: gap * self.field(h), self.method), cast(Any, None)
            with told(self.method):
                if self.adjoint:
                    parameters = tuple(self.field.parameters())
                    solution = torchdiffeq.odeint_adjoint(field, h, grid, method=self.method, adjoint_params=parameters)
                else:
                    solution = torchdiffeq.odeint(field, h, grid, method=self.method)
            calls += field.calls
            return solution[-1]

        from_x = nn.functional.linear(with_mask(x, mask).transpose(0, 1), self.cell.weight_ih, self.cell.bias_ih)
        h = from_x.new_zeros(len(x), self.hidden_size)
        hidden = []
        elapsed = gaps(timestamps, like=from_x).mT.unsqueeze(-1) / self.unit
        for k, (z_x, gap) in enumerate(zip(from_x, elapsed, strict=True)):
            h = cells.gru_step(z_x, evolve(h, gap) if k else h, self.cell.weight_hh, self.cell.bias_hh)
            hidden.append(h)
        self.evaluations = calls
        return torch.stack(hidden, dim=1)
