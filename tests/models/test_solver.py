"""Solvers that do not come to an end, or give up, are one sentence."""

import pytest
import torch

from hippo.errors import UserError
from hippo.models import ODERNN, NeuralCDE, solver


def steep(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for weight in model.field.parameters():
            weight.mul_(1e4)
    return model


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("kind", [ODERNN, NeuralCDE])
def test_a_solver_without_an_end_is_stopped(kind, adjoint, monkeypatch):
    monkeypatch.setattr(solver, "MOST", 50)
    torch.manual_seed(0)
    x, times = torch.randn(2, 6, 1), torch.arange(6.0).expand(2, -1)
    model = steep(kind(1, 8, unit=1.0, method="dopri5", adjoint=adjoint))
    with pytest.raises(solver.SolverFailed, match=r"the solver dopri5 .*model\.method=rk4") as error:
        model(x, times)
    assert isinstance(error.value, UserError)


def test_what_a_solver_asserts_is_told():
    torch.manual_seed(0)
    model = ODERNN(1, 4, unit=1.0, method="dopri5")
    with torch.no_grad():
        model.field[0].weight.fill_(float("nan"))
    with pytest.raises(solver.SolverFailed, match="gave up"):
        model(torch.randn(2, 6, 1), torch.arange(6.0).expand(2, -1))


def test_a_solver_that_ends_is_left_alone():
    torch.manual_seed(0)
    model = ODERNN(1, 4, unit=6.0, method="dopri5")
    model(torch.randn(2, 6, 1), torch.arange(6.0).expand(2, -1))
    assert 0 < model.evaluations < 5 * solver.MOST
