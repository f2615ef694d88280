"""The step in tensor operations against the dense transform, in float64."""

import pytest
import torch

from hippo import discretize
from hippo.kernels.legs import naive
from hippo.kernels.legs.naive import legs_step
from hippo.measures import JacS

pytestmark = pytest.mark.usefixtures("float64")


def matrix(order, step, alpha, batch=(), power=0.0):
    """The matrix [Ā | B̄] of a step, column by column: (*batch, N, N + 1)."""
    inputs = torch.eye(order + 1).view(order + 1, *(1 for _ in batch), order + 1).expand(-1, *batch, -1)
    return legs_step(inputs[..., :-1], inputs[..., -1], step, alpha, power).movedim(0, -1)


def dense(order, step, alpha, power=0.0):
    A_bar, B_bar = discretize.gbt(*JacS(power).dynamics(order), step, alpha)
    return torch.cat([A_bar, B_bar.unsqueeze(-1)], dim=-1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 31, 32, 33, 64, 512])
def test_a_step_equals_the_dense_transform(order, alpha, relative_error):
    for t in (1, 2, 7, 784, 10**6):
        assert relative_error(matrix(order, torch.tensor(1 / t), alpha), dense(order, 1 / t, alpha)) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("power", [-0.5, 1.0, 3.5])
@pytest.mark.parametrize("order", [1, 33])
def test_a_step_under_a_power_of_time_equals_the_dense_transform(order, power, alpha, relative_error):
    for t in (1, 2, 784):
        found = matrix(order, torch.tensor(1 / t), alpha, power=power)
        assert relative_error(found, dense(order, 1 / t, alpha, power)) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("order", [5, 70])
def test_every_sample_of_a_batch_has_its_own_step(order, alpha, relative_error):
    step = torch.tensor([[1.0, 0.5, 0.0], [0.01, 0.3, 1e-5]])
    assert relative_error(matrix(order, step, alpha, batch=(2, 3)), dense(order, step, alpha)) < 1e-12


def test_a_gate_of_zero_forgets_what_lies_below(relative_error):
    """1 − a n is 0 for a bilinear step of 1 at n = 2, and for one of 2/5 at n = 5: nothing may divide by it."""
    for step, closed in ((1.0, 2), (0.4, 5)):
        found = matrix(9, torch.tensor(step), 0.5)
        assert relative_error(found, dense(9, step, 0.5)) < 1e-14
        assert (found[closed + 1 :, :closed] == 0).all()


@pytest.mark.parametrize("order", [5, 70])
def test_a_step_has_the_dense_gradients(order, relative_error):
    step = torch.tensor([0.5, 0.01])
    c, f, upstream = (
        torch.randn(2, order, requires_grad=True),
        torch.randn(2, requires_grad=True),
        torch.randn(2, order),
    )
    for_c, for_f = torch.autograd.grad(legs_step(c, f, step), (c, f), upstream)
    by_hand = torch.einsum("bnj,bn->bj", dense(order, step, 0.5), upstream)
    assert relative_error(torch.cat([for_c, for_f.unsqueeze(-1)], dim=-1), by_hand) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 40])
def test_a_constant_past_stays_as_it_is_under_the_same_input(order, alpha):
    c = torch.zeros(order)
    c[0] = 2.5
    for t in (1, 2, 100):
        after = legs_step(c, torch.tensor(2.5), torch.tensor(1 / t), alpha)
        torch.testing.assert_close(after, c, rtol=0, atol=1e-14)


def test_a_step_of_zero_changes_nothing_at_all():
    c, f = torch.randn(3, 40), torch.randn(3)
    after = legs_step(c, f, torch.tensor([0.0, 0.3, 0.0]))
    assert torch.equal(after[::2], c[::2])
    assert not torch.equal(after[1], c[1])


def test_float32_steps_keep_float32_precision(relative_error):
    for order, t in ((64, 2), (512, 784)):
        c, f = torch.randn(9, order), torch.randn(9)
        expected = c @ dense(order, 1 / t, 0.5)[:, :-1].mT + f.unsqueeze(-1) * dense(order, 1 / t, 0.5)[:, -1]
        found = legs_step(c.float(), f.float(), torch.tensor(1 / t))
        assert found.dtype == torch.float32
        assert relative_error(found, expected) < 3e-7


@pytest.mark.parametrize("shared", [False, True])
def test_a_sequence_is_its_steps(shared):
    c, f, step = torch.randn(3, 7), torch.randn(3, 9), torch.rand(9, 1 if shared else 3)
    every = naive.sequence(c, f, step, 0.3, every=True)
    for k in range(9):
        c = legs_step(c, f[:, k], step[k], 0.3)
        assert torch.equal(every[:, k], c)
    assert torch.equal(naive.sequence(every[:, 0], f[:, 1:], step[1:], 0.3, every=False), c)
