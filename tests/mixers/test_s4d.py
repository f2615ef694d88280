"""Diagonal state spaces against the dense ones that they stand for."""

import math

import pytest
import torch

from hippo.discretize import bilinear, zoh
from hippo.measures import LegS
from hippo.mixers import S4D
from hippo.mixers.gaps import on_grid
from hippo.mixers.s4d import eigenvalues
from hippo.mixers.spectra import spectrum

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("order", [8, 32])
@pytest.mark.parametrize(("discretization", "rule"), [("zoh", zoh), ("bilinear", bilinear)])
def test_from_legs_it_is_the_dense_normal_part(discretization, rule, order):
    layer = S4D(2, state_size=order, discretization=discretization)
    _, V, P, _ = spectrum("legs", order)
    low_rank = 2 * (V @ P.mT).real
    A = LegS().dynamics(order)[0] + low_rank @ low_rank.mT
    B = 2 * V.sum(1).real  # what is 1 in the basis of eigenvectors
    for feature, step in enumerate(torch.exp(layer.log_step.detach())):
        C = 2 * (torch.view_as_complex(layer.C.detach())[feature] @ V.mH).real
        A_, state = rule(A, B, step)
        expected = []
        for _ in range(100):
            expected.append(C @ state)
            state = A_ @ state
        expected[0] = expected[0] + layer.D[feature].detach()
        actual = layer.kernel(100)[feature]
        torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-9, atol=1e-11)


def test_initializations_are_those_of_the_paper():
    n = torch.arange(4)
    torch.testing.assert_close(eigenvalues("lin", 8), torch.complex(torch.full((4,), -0.5), math.pi * n))
    torch.testing.assert_close(eigenvalues("inv", 8).imag, 8 / math.pi * (8 / (2 * n + 1) - 1))
    torch.testing.assert_close(eigenvalues("real", 8), torch.complex(-(n + 1.0), torch.zeros(4)))
    legs, inverse = (eigenvalues(name, 64).imag.sort().values for name in ("legs", "inv"))
    torch.testing.assert_close(inverse[-3:], legs[-3:], rtol=0.08, atol=0)  # what "inv" is a formula for


@pytest.mark.parametrize("name", ["lin", "inv", "legs", "real"])
def test_every_initialization_is_stable_and_of_the_kernels_own_precision(name):
    kernel = S4D(3, state_size=64, initialization=name).kernel(2000)
    assert kernel.isfinite().all()
    single = S4D(3, state_size=64, initialization=name).float()
    expected = single.double().kernel(784)
    actual = single.float().kernel(784).double()
    assert ((actual - expected).abs().max() / expected.abs().max()) < 2e-5


def test_gaps_of_whole_steps_are_found_and_others_are_not():
    grid = on_grid(torch.tensor([[1.0, 2.0, 0.0, 3.0], [1.0, 1.0, 1.0, 1.0]]))
    assert grid is not None
    assert grid.step == 1.0
    assert grid.ends.tolist() == [[1, 3, 3, 6], [1, 2, 3, 4]]
    assert grid.held.tolist() == [[0, 1, 1, 3, 3, 3], [0, 1, 2, 3, 3, 3]]
    grid = on_grid(torch.tensor([[1.0, 1.5]]))
    assert grid is not None
    assert (grid.step, grid.ends.tolist()) == (0.5, [[2, 5]])
    assert on_grid(torch.tensor([[1.0, math.sqrt(2)]])) is None
    assert on_grid(torch.tensor([[1.0, 100.0]])) is None
    assert on_grid(torch.zeros(1, 2)) is None


@pytest.mark.parametrize("settings", [{"state_size": 7}, {"initialization": "quad"}, {"steps": (0.1, 0.01)}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"state_size|initialization|steps"):
        S4D(2, **settings)
