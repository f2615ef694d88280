"""Neural controlled differential equations (Kidger, Morrill, Foster and Lyons 2020, arXiv 2005.08926)."""

from typing import Any

import torch
import torchcde
from torch import Tensor, nn

from hippo.models.base import SequenceModel, positive, positive_time
from hippo.models.solver import Counted, check_method, refuse_export, told


class NeuralCDE(SequenceModel):
    """dz = f(z) dX: a hidden state driven by the path through the observations.

    X is the cubic Hermite spline with backward differences through (time, x), which does not look ahead (arXiv
    2106.11028), and takes its values at whole numbers: time is a channel, the index of the step where there are no
    timestamps. A channel that is missing keeps its last value, or 0 where it has none. f is a ReLU network with tanh at
    its end; z starts as a linear map of X's beginning. The sizes default to those of the authors' code for Character
    Trajectories.

    Args:
        input_size: Channels C.
        hidden_size: Features D.
        field_size: Width of f.
        field_depth: Hidden layers of f.
        unit: Unit of time of the path, in that of the timestamps.
        method: A solver of torchdiffeq.
        steps: Steps of the solver from one observation to the next.
        adjoint: Whether gradients come from the adjoint CDE.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    uses_timestamps = True
    takes_channel_mask = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 32,
        field_size: int = 32,
        field_depth: int = 3,
        unit: float = 1.0,
        method: str = "rk4",
        steps: int = 1,
        adjoint: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size)
        positive(field_size=field_size, field_depth=field_depth, steps=steps)
        positive_time(unit=unit)
        check_method(method, steps)
        self.start = nn.Linear(input_size + 1, hidden_size)
        self.field: nn.Module = Field(input_size + 1, hidden_size, field_size, field_depth)
        self.unit = unit
        self.method = method
        self.steps = steps
        self.adjoint = adjoint

    def unroll(self, x: Tensor, timestamps: Tensor | None, mask: Tensor | None) -> Tensor:
        refuse_export()
        length = x.shape[1]
        if timestamps is None:
            timestamps = torch.arange(length, device=x.device).expand(x.shape[:2])
        if mask is not None:
            steps = torch.arange(length, device=x.device).unsqueeze(-1)
            x = x.gather(1, torch.where(mask, steps, 0).cummax(1).values)  # the first is 0 where it is missing
        times = (timestamps.to(torch.float64) / self.unit).to(x).unsqueeze(-1)
        knots = torch.cat([times, x], dim=-1)
        self.evaluations = 0
        if length == 1:
            return self.start(knots)
        coefficients = torchcde.hermite_cubic_coefficients_with_backward_differences(knots)
        path = torchcde.CubicSpline(coefficients)
        grid = torch.linspace(0, length - 1, (length - 1) * self.steps + 1, dtype=x.dtype, device=x.device)
        field = Counted(self.field, self.method, length)
        options: dict[str, Any] = {}
        if self.adjoint:
            options["adjoint_params"] = (*self.field.parameters(), *[coefficients] * coefficients.requires_grad)
        with told(self.method):
            z: Any = torchcde.cdeint(
                path, field, self.start(knots[:, 0]), grid, self.adjoint, method=self.method, **options
            )
        self.evaluations = field.calls - 1  # torchcde tries the field once, to see its shapes
        return z[:, :: self.steps]


class Field(nn.Sequential):
    """f: (B, D) to (B, D, channels)."""

    def __init__(self, channels: int, hidden_size: int, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Linear(hidden_size if k == 0 else width, width), nn.ReLU()]
        layers += [nn.Linear(width, hidden_size * channels), nn.Tanh(), nn.Unflatten(-1, (hidden_size, channels))]
        super().__init__(*layers)
