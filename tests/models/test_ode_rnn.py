"""ODE-RNN against the GRU that it becomes and the linear equations that it solves."""

import pytest
import torch
from torch import nn

from hippo.models import ODERNN

pytestmark = pytest.mark.usefixtures("float64")


def with_mask(x):
    """x, and a mask that says that all of it was observed."""
    return torch.cat([x, torch.ones_like(x)], dim=-1)


def a_batch():
    return torch.randn(4, 9, 3), torch.cumsum(torch.rand(4, 9) + 0.05, dim=1)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
def test_without_a_vector_field_it_is_a_gru(method, relative_error):
    model, gru, (x, times) = ODERNN(3, 7, method=method), nn.GRU(6, 7), a_batch()
    with torch.no_grad():
        model.field[2].weight.zero_()
        model.field[2].bias.zero_()
        for target, source in zip(gru.parameters(), model.cell.parameters(), strict=True):
            target.copy_(source)
    assert relative_error(model(x, times), gru(with_mask(x).transpose(0, 1))[0][-1]) < 1e-13


@pytest.mark.parametrize(("method", "steps", "bound"), [("euler", 200, 5e-3), ("rk4", 20, 1e-8), ("dopri5", 1, 1e-5)])
def test_between_observations_a_linear_field_is_its_exponential(method, steps, bound, relative_error):
    model, (x, times) = ODERNN(3, 5, unit=2.0, method=method, steps=steps), a_batch()
    model.field = nn.Linear(5, 5, bias=False)
    h = torch.zeros(4, 5)
    for k in range(9):
        if k:
            gap = (times[:, k] - times[:, k - 1]) / 2
            h = torch.einsum("bij,bj->bi", torch.linalg.matrix_exp(gap[:, None, None] * model.field.weight), h)
        h = model.cell(with_mask(x)[:, k], h)
    assert relative_error(model(x, times), h) < bound


@pytest.mark.parametrize(("method", "steps", "each"), [("euler", 1, 1), ("midpoint", 3, 6), ("rk4", 2, 8)])
def test_evaluations_of_the_field_are_counted(method, steps, each):
    model, (x, times) = ODERNN(3, 7, method=method, steps=steps), a_batch()
    assert model.evaluations is None
    for _ in range(2):
        model(x, times)
        assert model.evaluations == 8 * each


def test_the_adjoint_gives_the_gradients_of_a_solution_that_is_fine_enough(relative_error):
    (x, times), upstream = a_batch(), torch.randn(4, 5)
    gradients = []
    for adjoint in (False, True):
        torch.manual_seed(1)
        model = ODERNN(3, 5, unit=2.0, method="rk4", steps=8, adjoint=adjoint)
        x = x.detach().requires_grad_()
        gradients.append(torch.autograd.grad(model(x, times), [x, *model.parameters()], upstream))
        assert model.evaluations == 8 * 32  # forward
    for exact, adjoint in zip(*gradients, strict=True):
        assert relative_error(adjoint, exact) < 1e-7


def test_steps_without_an_end_are_refused():
    with pytest.raises(ValueError, match="steps must be at most 250, not 251"):
        ODERNN(1, 4, method="rk4", steps=251)


def test_what_is_no_solver_is_refused():
    with pytest.raises(ValueError, match="unknown method 'runge'; choose from"):
        ODERNN(1, 4, method="runge")
    with pytest.raises(ValueError, match="unknown method 'scipy_solver'"):  # it has no gradients
        ODERNN(1, 4, method="scipy_solver")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        ODERNN(1, 4, steps=0)
    with pytest.raises(ValueError, match="field_size must be at least 1"):
        ODERNN(1, 4, field_size=0)
