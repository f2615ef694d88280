"""Steps of a memory as matrices."""

import pytest
import torch
from scipy.linalg import expm

from hippo import discretize, transitions
from hippo.measures import LegS, LegT
from hippo.transitions import Filling, held

pytestmark = pytest.mark.usefixtures("float64")


def matrix(step, order):
    """The matrix [Ā | B̄] of a step, column by column: (N, N + 1)."""
    inputs = torch.eye(order + 1)
    return step(inputs[:, :-1], inputs[:, -1]).mT


@pytest.mark.parametrize("order", [1, 2, 8, 32])
@pytest.mark.parametrize("r", [0.999, 0.9, 0.5, 0.1])
def test_the_dilation_is_the_zero_order_hold_in_logarithmic_time(order, r, relative_error):
    """Where torch.linalg.matrix_exp is exact, `discretize.zoh` too; SciPy's exponential is the judge for the rest."""
    A, B = LegS().dynamics(order)
    augmented = torch.zeros(order + 1, order + 1)
    augmented[:order, :order], augmented[:order, order] = A, B
    exact = torch.from_numpy(expm(torch.log(1 / torch.tensor(r)).numpy() * augmented.numpy()))[:order]
    assert relative_error(matrix(held(order, torch.tensor(1 - r), 0.0), order), exact) < 1e-12
    if r < 0.99:
        A_bar, B_bar = discretize.zoh(A, B, torch.log(1 / torch.tensor(r)))
        assert relative_error(torch.cat([A_bar, B_bar.unsqueeze(-1)], dim=-1), exact) < 1e-12


def test_dilations_compose_as_their_ratios_multiply(relative_error):
    """Reading [0, 1] as [0, 2] as [0, 6] is reading it as [0, 6]; the input held meanwhile is one interval."""
    twice, thrice, both = (held(24, torch.tensor(1 - r), 0.0) for r in (1 / 2, 1 / 3, 1 / 6))
    c, f = torch.randn(24), torch.randn(())
    assert relative_error(thrice(twice(c, f), f), both(c, f)) < 1e-12


def test_a_dilation_from_time_zero_forgets_all_that_was():
    c, f = torch.randn(2, 16), torch.randn(2)
    after = held(16, torch.tensor([1.0, 1.0]), 0.0)(c, f)
    torch.testing.assert_close(after, torch.nn.functional.pad(f[:, None], (0, 15)), rtol=0, atol=1e-14)


def test_every_sample_of_a_batch_has_its_own_exact_step(relative_error):
    step, c, f = torch.tensor([0.5, 0.0, 0.01]), torch.randn(3, 9), torch.randn(3)
    together = held(9, step, 0.0)(c, f)
    for k in range(3):
        assert relative_error(together[k], held(9, step[k], 0.0)(c[k], f[k])) < 1e-13
    assert torch.equal(together[1], c[1])


def test_a_memory_is_filled_whatever_it_held():
    B, f = torch.randn(4), torch.randn(2)
    assert torch.equal(Filling(B)(torch.full((2, 4), torch.nan), f), f[:, None] * B)


@pytest.mark.parametrize("discretization", ["euler", "bilinear", "backward_euler", 0.3, "zoh"])
def test_a_translated_measures_step_is_its_discretization_and_kept(discretization):
    A, B = LegT(20.0).dynamics(6)
    if discretization == "zoh":
        expected = discretize.zoh(A, B, 0.7)
    else:
        expected = discretize.gbt(A, B, 0.7, transitions.alpha(discretization))
    step = transitions.translated(LegT(20.0), 6, discretization, 0.7)
    assert all(map(torch.equal, step, expected))
    assert transitions.translated(LegT(20.0), 6, discretization, 0.7) is step
    single = transitions.translated(LegT(20.0), 6, discretization, 0.7, torch.float32, torch.device("cpu"))
    assert all(torch.equal(mine, theirs.float()) for mine, theirs in zip(single, expected, strict=True))


def test_the_constant_past_is_at_rest():
    A, B = LegT(20.0).dynamics(7)
    torch.testing.assert_close(A @ transitions.constant_past(LegT(20.0), 7), -B, rtol=0, atol=1e-12)
