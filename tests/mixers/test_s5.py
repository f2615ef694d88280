"""S5 against the systems that it is a short way of writing."""

import pytest
import torch

from hippo.discretize import bilinear, zoh
from hippo.measures import LegS
from hippo.mixers import S5
from hippo.mixers.spectra import spectrum

pytestmark = pytest.mark.usefixtures("float64")


def outputs_of_dense(A, B, C, D, x, step, rule):
    """y of dx/dt = A x + B u, real and dense: A (N, N), B (N, H), C (H, N)."""
    A_, _ = rule(A, B[:, 0], step)
    B_ = torch.stack([rule(A, column, step)[1] for column in B.mT], dim=1)
    state, y = torch.zeros(len(x), len(A)), []
    for u in x.unbind(1):
        state = state @ A_.mT + u @ B_.mT
        y.append(state @ C.mT + D * u)
    return torch.stack(y, 1)


@pytest.mark.parametrize(("discretization", "rule"), [("zoh", zoh), ("bilinear", bilinear)])
@pytest.mark.parametrize("rate", [1.0, 2.5])
def test_with_one_step_size_it_is_the_dense_normal_part_of_legs(discretization, rule, rate):
    layer, x = S5(3, state_size=8, discretization=discretization), torch.randn(2, 40, 3)
    with torch.no_grad():
        layer.log_step.fill_(-3.0)
    _, V, P, _ = spectrum("legs", 8)
    low_rank = 2 * (V @ P.mT).real
    A = LegS().dynamics(8)[0] + low_rank @ low_rank.mT
    B = 2 * (V @ torch.view_as_complex(layer.B.detach())).real
    C = 2 * (torch.view_as_complex(layer.C.detach()) @ V.mH).real
    expected = outputs_of_dense(A, B, C, layer.D.detach(), x, torch.exp(torch.tensor(-3.0)) * rate, rule)
    torch.testing.assert_close(layer(x, rate=rate)[0], expected, rtol=1e-10, atol=1e-10)


def test_its_state_is_the_sum_of_the_states_that_each_input_drives_alone():
    layer, x = S5(4, state_size=16, blocks=2), torch.randn(3, 25, 4)
    alone = sum(layer(x * torch.eye(4)[h])[1] for h in range(4))
    torch.testing.assert_close(layer(x)[1], alone, rtol=1e-11, atol=1e-11)


def test_blocks_are_copies_of_a_smaller_legs():
    layer = S5(2, state_size=16, blocks=2)
    assert torch.equal(layer.frequency[:4], layer.frequency[4:])
    torch.testing.assert_close(layer.frequency[:4], spectrum("legs", 8).eigenvalues.imag)


@pytest.mark.parametrize(
    "settings", [{"state_size": 6, "blocks": 2}, {"steps": (0.0, 0.1)}, {"discretization": "euler"}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"blocks|steps|discretization"):
        S5(2, **settings)
