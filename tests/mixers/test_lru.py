"""The Linear Recurrent Unit."""

import math

import pytest
import torch

from hippo.mixers import LRU

pytestmark = pytest.mark.usefixtures("float64")


def test_white_input_gives_states_of_variance_one():
    torch.manual_seed(0)
    layer = LRU(1, state_size=32, radii=(0.5, 0.95))
    with torch.no_grad():
        layer.B.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.B))
        _, state = layer(torch.randn(4000, 120, 1))
    torch.testing.assert_close(state.abs().square().mean(), torch.tensor(1.0), rtol=0.03, atol=0.0)


def test_factors_begin_within_the_ring_and_stay_within_the_disc():
    layer = LRU(2, state_size=500, radii=(0.9, 0.99), phase=1.0)
    factors = layer.factors(1.0)[0]
    assert factors.abs().min() >= 0.9
    assert factors.abs().max() <= 0.99
    assert factors.angle().min() >= 0
    assert factors.angle().max() <= 1.0
    with torch.no_grad():
        layer.nu.add_(10 * torch.randn(500))
    assert layer.factors(1.0)[0].abs().max() < 1


def test_a_rate_of_two_is_two_steps_at_which_the_input_is_held():
    layer, x = LRU(3, state_size=5), torch.randn(2, 10, 3)
    held = layer(x.repeat_interleave(2, dim=1))[0][:, 1::2]
    torch.testing.assert_close(layer(x, rate=2.0)[0], held, rtol=1e-10, atol=1e-10)


def test_half_a_step_keeps_the_slowest_oscillation_and_two_of_them_are_one_step():
    layer, x = LRU(3, state_size=200, radii=(0.999, 1.0)), torch.randn(2, 10, 3)
    half, weight = layer.factors(0.5)
    assert half.angle().abs().max() <= math.pi / 2
    assert (weight.abs() <= layer.factors(1.0)[1].abs()).all()
    held = layer(x.repeat_interleave(2, dim=1), rate=0.5)[0][:, 1::2]
    torch.testing.assert_close(held, layer(x)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radii", [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1)])
def test_radii_that_are_no_ring_in_the_disc_are_refused(radii):
    with pytest.raises(ValueError, match="radii"):
        LRU(2, radii=radii)
