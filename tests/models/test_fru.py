"""The Fourier recurrent unit against its equations."""

import math

import pytest
import torch

from hippo.models import FRU

pytestmark = pytest.mark.usefixtures("float64")


def test_the_unit_is_its_four_equations_and_so_are_its_gradients(relative_error):
    model, x = FRU(3, 7, length=12.0, frequencies=4, statistics=2, recurrent_size=5), torch.randn(4, 9, 3)
    x.requires_grad_()
    with torch.no_grad():
        model.phase.normal_()
    frequencies = [0.0, 0.25, math.sqrt(0.25 * 12.0), 12.0]
    u = torch.zeros(4, 4, 2)
    for t, x_t in enumerate(x.unbind(1), start=1):
        r = torch.relu(model.recall(u.reshape(4, 8)))
        phi = torch.relu(model.statistic(torch.cat([x_t, r], dim=1)))
        waves = [torch.cos(2 * math.pi * (f * t / 12 + model.phase[k])) for k, f in enumerate(frequencies)]
        u = u + torch.stack([wave * phi / 12 for wave in waves], dim=1)
    h = torch.relu(model.read(u.reshape(4, 8)))
    assert relative_error(model(x), h) < 1e-13
    inputs, upstream = [x, *model.parameters()], torch.randn(4, 7)
    pairs = zip(*(torch.autograd.grad(out, inputs, upstream) for out in (model(x), h)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < 1e-12


def test_the_lowest_frequency_is_a_plain_mean():
    model, x = FRU(1, 4, length=9.0, frequencies=1, statistics=2, recurrent_size=3), torch.rand(2, 9, 1)
    with torch.no_grad():
        model.recall.weight.zero_()
        model.recall.bias.zero_()
        model.statistic.weight.fill_(1.0)
        model.statistic.bias.zero_()
    torch.testing.assert_close(model.unroll(x, None, None)[:, -1], x.mean(1).expand(2, 2))


@pytest.mark.parametrize("name", ["frequencies", "statistics", "recurrent_size", "length"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=name):
        FRU(1, 4, **{name: 0})
