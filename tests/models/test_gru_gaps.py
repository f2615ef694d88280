"""Gated recurrent units that know of time, against the GRU and against their equations."""

import pytest
import torch
from torch import nn

from hippo.models import GRUD, GRUDt

pytestmark = pytest.mark.usefixtures("float64")


def irregular_times(*shape):
    return torch.cumsum(torch.rand(*shape) + 0.05, dim=-1)


def test_gru_dt_is_a_gru_of_values_mask_and_gap(relative_error):
    model, x, times = GRUDt(3, 7, unit=2.0), torch.randn(4, 9, 3), irregular_times(4, 9)
    mask = torch.rand(4, 9, 3) < 0.7
    mask[..., 0] = True
    gaps = torch.diff(times, dim=1, prepend=times[:, :1]).unsqueeze(-1) / 2
    read = torch.cat([torch.where(mask, x, 0.0), mask.double(), gaps], dim=-1)
    assert relative_error(model(x, times, mask=mask), model.rnn(read.transpose(0, 1))[0][-1]) < 1e-13


def test_gru_d_without_gaps_and_decay_is_a_gru(relative_error):
    """Of the input and a mask that says it is all there."""
    model, x, times = GRUD(3, 7), torch.randn(4, 9, 3), irregular_times(4, 9)
    gru = nn.GRU(6, 7)
    with torch.no_grad():
        model.hidden_decay.weight.zero_()
        model.hidden_decay.bias.zero_()
        for target, source in zip(gru.parameters(), model.cell.parameters(), strict=True):
            target.copy_(source)
    expected = gru(torch.cat([x, torch.ones_like(x)], dim=-1).transpose(0, 1))[0][-1]
    assert relative_error(model(x, times), expected) < 1e-13


def test_gru_d_is_its_equations_and_so_are_its_gradients(relative_error):
    """The class's equations, in a loop over steps and channels."""
    size, length, channels, hidden, unit = 3, 8, 2, 5, 1.7
    model = GRUD(channels, hidden, unit)
    x, times = torch.randn(size, length, channels, requires_grad=True), irregular_times(size, length)
    mask = torch.rand(size, length, channels) < 0.5
    mask[:, 0, 0] = True
    mask[0, 0] = True
    mask[:, -1] = True
    mask[1, 2:6, 0] = False  # a long gap
    mask[:, :, 1] |= ~mask[:, :, 0]  # something is read at each step
    with torch.no_grad():
        model.input_decay.abs_()
        model.hidden_decay.weight.abs_()
    states = []
    for b in range(size):
        h = torch.zeros(hidden)
        delta, last = [0.0] * channels, [torch.tensor(0.0)] * channels
        for k in range(length):
            if k:
                gap = (times[b, k] - times[b, k - 1]).item() / unit
                delta = [gap + (0.0 if mask[b, k - 1, d] else delta[d]) for d in range(channels)]
            read = []
            for d in range(channels):
                gamma = torch.exp(-torch.relu(model.input_decay[0, d] * delta[d] + model.input_decay[1, d]))
                if mask[b, k, d]:
                    last[d] = x[b, k, d]
                read.append(x[b, k, d] if mask[b, k, d] else gamma * last[d])
            h = torch.exp(-torch.relu(model.hidden_decay(torch.tensor(delta)))) * h
            h = model.cell(torch.cat([torch.stack(read), mask[b, k].double()]), h)
        states.append(h)
    expected = torch.stack(states)
    actual = model(x, times, mask=mask)
    assert relative_error(actual, expected) < 1e-12
    inputs, upstream = [x, *model.parameters()], torch.randn(size, hidden)
    pairs = zip(*(torch.autograd.grad(out, inputs, upstream) for out in (actual, expected)), strict=True)
    for got, wanted in pairs:
        assert relative_error(got, wanted) < 1e-10


@pytest.mark.parametrize("unit", [0.0, -1.0, float("inf")])
@pytest.mark.parametrize("family", [GRUD, GRUDt])
def test_a_unit_of_time_is_a_length_of_time(family, unit):
    with pytest.raises(ValueError, match="unit must be above 0"):
        family(1, 4, unit=unit)
