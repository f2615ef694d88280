"""Neural controlled differential equations against linear ones, which have closed forms."""

import math

import pytest
import torch
from torch import nn

from hippo.models import NeuralCDE

pytestmark = pytest.mark.usefixtures("float64")


class Linear(nn.Module):
    """f(z) = A_c z for each channel c of the path: (B, D) to (B, D, channels)."""

    def __init__(self, hidden, channels):
        super().__init__()
        self.A = nn.Parameter(torch.randn(channels, hidden, hidden) / hidden)

    def forward(self, z):
        return torch.einsum("cij,bj->bic", self.A, z)


@pytest.mark.parametrize(
    ("method", "steps", "bound"), [("rk4", 20, 1e-7), ("midpoint", 100, 4e-4), ("euler", 200, 5e-2)]
)
def test_driven_by_time_alone_a_linear_field_is_its_exponential(method, steps, bound, relative_error):
    """z(t) = e^{A (t − t_0)} z(t_0), whatever the timestamps in between, where x stands still."""
    model = NeuralCDE(2, 5, unit=2.0, method=method, steps=steps)
    model.field = Linear(5, 3)
    x, times = torch.randn(4, 1, 2).expand(-1, 6, -1), 2 * torch.cumsum(torch.rand(4, 6) + 0.2, dim=1)
    start = model.start(torch.cat([times[:, :1] / 2, x[:, 0]], dim=1))
    flow = torch.linalg.matrix_exp((times[:, -1] - times[:, 0])[:, None, None] / 2 * model.field.A[0])
    assert relative_error(model(x, times), torch.einsum("bij,bj->bi", flow, start)) < bound


def test_where_fields_commute_only_the_ends_of_the_path_matter(relative_error):
    """dz = Σ a_c z dX_c with numbers a_c: z = exp(Σ a_c (X_c(T) − X_c(0))) z_0, along any path."""
    model, a = NeuralCDE(2, 1, method="rk4", steps=30), torch.tensor([0.1, -0.5, 0.3])
    model.field = Linear(1, 3)
    with torch.no_grad():
        model.field.A.copy_(a.reshape(3, 1, 1))
    x = torch.randn(4, 7, 2)
    path = torch.cat([torch.arange(7.0).expand(4, 7).unsqueeze(-1), x], dim=-1)
    expected = torch.exp((path[:, -1] - path[:, 0]) @ a).unsqueeze(1) * model.start(path[:, 0])
    assert relative_error(model(x), expected) < 1e-6


@pytest.mark.parametrize(("method", "steps", "each"), [("euler", 1, 1), ("midpoint", 2, 4), ("rk4", 1, 4)])
def test_evaluations_of_the_field_are_counted(method, steps, each):
    model = NeuralCDE(3, 7, method=method, steps=steps)
    for _ in range(2):
        model(torch.randn(4, 9, 3))
        assert model.evaluations == 8 * each


def test_driven_by_a_straight_line_a_linear_field_is_its_exponential(relative_error):
    """z = e^{A Δx} z_0 for the matrix of the one channel that moves."""
    model = NeuralCDE(1, 4, unit=1e9, steps=10)
    model.field = Linear(4, 2)
    x = torch.linspace(0.3, 2.1, 6).reshape(1, 6, 1)
    flow = torch.linalg.matrix_exp(1.8 * model.field.A[1])
    expected = model.start(torch.tensor([[0.0, 0.3]])) @ flow.mT
    assert relative_error(model(x), expected) < 1e-7


def test_a_channel_that_is_missing_keeps_its_last_value(relative_error):
    model, x = NeuralCDE(2, 4), torch.randn(3, 7, 2)
    x[:, 3:5, 1] = x[:, 2:3, 1]
    x[:, 0, 0] = 0
    mask = torch.ones(3, 7, 2, dtype=torch.bool)
    mask[:, 3:5, 1] = mask[:, 0, 0] = False
    assert relative_error(model(torch.where(mask, x, math.nan), mask=mask), model(x)) < 1e-13


def test_the_adjoint_gives_the_gradients_of_a_solution_that_is_fine_enough(relative_error):
    x, upstream = torch.randn(3, 6, 2), torch.randn(3, 4)
    gradients = []
    for adjoint in (False, True):
        torch.manual_seed(1)
        model = NeuralCDE(2, 4, steps=12, adjoint=adjoint)
        model.field = nn.Sequential(Linear(4, 3), nn.Tanh())  # smooth, unlike a ReLU network
        x = x.detach().requires_grad_()
        gradients.append(torch.autograd.grad(model(x), [x, *model.parameters()], upstream))
    for exact, adjoint in zip(*gradients, strict=True):
        assert relative_error(adjoint, exact) < 1e-5


def test_steps_without_an_end_are_refused():
    with pytest.raises(ValueError, match="steps must be at most 250, not 251"):
        NeuralCDE(1, 4, method="rk4", steps=251)


def test_what_is_no_solver_is_refused():
    with pytest.raises(ValueError, match="unknown method 'runge'; choose from"):
        NeuralCDE(1, 4, method="runge")
    with pytest.raises(ValueError, match="field_depth must be at least 1"):
        NeuralCDE(1, 4, field_depth=0)
