"""Plain and gated recurrent networks against their equations."""

import math

import pytest
import torch
from torch import nn

from hippo.kernels import cells
from hippo.models import GRU, LSTM, MGU, RNN, HiPPORNN

pytestmark = pytest.mark.usefixtures("float64")


def test_the_gru_is_gated_by_update_and_reset(relative_error):
    model, x = GRU(3, 7), torch.randn(4, 9, 3)
    weight_x, weight_h, bias_x, bias_h = (p.split(7) for p in model.rnn.parameters())
    h = torch.zeros(4, 7)
    for x_k in x.unbind(1):
        from_x = [x_k @ W.mT + b for W, b in zip(weight_x, bias_x, strict=True)]
        from_h = [h @ W.mT + b for W, b in zip(weight_h, bias_h, strict=True)]
        reset, update = (torch.sigmoid(from_x[i] + from_h[i]) for i in (0, 1))
        h = (1 - update) * torch.tanh(from_x[2] + reset * from_h[2]) + update * h
    assert relative_error(model(x), h) < 1e-12


def test_the_step_of_a_gru_is_the_frameworks(relative_error):
    cell, x, h = nn.GRUCell(3, 7), torch.randn(4, 3), torch.randn(4, 7)
    from_x = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    assert relative_error(cells.gru_step(from_x, h, cell.weight_hh, cell.bias_hh), cell(x, h)) < 1e-14


def test_the_rnn_is_a_tanh_of_input_and_state(relative_error):
    model, x, h = RNN(3, 7), torch.randn(4, 9, 3), torch.zeros(4, 7)
    weight_x, weight_h, bias_x, bias_h = model.rnn.parameters()
    for x_k in x.unbind(1):
        h = torch.tanh(x_k @ weight_x.mT + bias_x + h @ weight_h.mT + bias_h)
    assert relative_error(model(x), h) < 1e-13


def test_the_lstm_carries_a_cell_behind_three_gates(relative_error):
    model, x = LSTM(3, 7), torch.randn(4, 9, 3)
    weight_x, weight_h, bias_x, bias_h = model.rnn.parameters()
    h = c = torch.zeros(4, 7)
    for x_k in x.unbind(1):
        i, f, g, o = (x_k @ weight_x.mT + bias_x + h @ weight_h.mT + bias_h).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    assert relative_error(model(x), h) < 1e-13


def test_the_mgu_is_its_two_equations_and_so_are_its_gradients(relative_error):
    model, x, h = MGU(3, 7), torch.randn(4, 9, 3, requires_grad=True), torch.zeros(4, 7)
    for x_k in x.unbind(1):
        f = torch.sigmoid(model.forget(torch.cat([x_k, h], dim=1)))
        h = (1 - f) * h + f * torch.tanh(model.candidate(torch.cat([x_k, f * h], dim=1)))
    assert relative_error(model(x), h) < 1e-13
    inputs, upstream = [x, *model.parameters()], torch.randn(4, 7)
    pairs = zip(*(torch.autograd.grad(out, inputs, upstream) for out in (model(x), h)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < 1e-12


def test_the_forget_bias_is_the_forget_gates_alone():
    """A cell without input keeps σ(forget bias) of what it holds."""
    torch.manual_seed(0)
    plain = LSTM(2, 3)
    torch.manual_seed(0)
    biased = LSTM(2, 3, forget_bias=1.0)
    added = biased.rnn.bias_ih_l0 - plain.rnn.bias_ih_l0
    torch.testing.assert_close(added, torch.tensor([0.0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]))
    with torch.no_grad():
        for parameter in biased.parameters():
            parameter.zero_()
        biased.rnn.bias_ih_l0[3:6] = 1.0
        _, (_, cell) = biased.rnn(torch.zeros(4, 1, 2), (torch.zeros(1, 1, 3), torch.ones(1, 1, 3)))
    torch.testing.assert_close(cell, torch.sigmoid(torch.tensor(1.0)).pow(4).expand(1, 1, 3))


GATED = {
    "gru": lambda unit: GRU(3, 7, gate_unit=unit),
    "lstm": lambda unit: LSTM(3, 7, gate_unit=unit),
    "hippo": lambda unit: HiPPORNN(3, 7, memory_order=5, gate_unit=unit),
}
every_gated = pytest.mark.parametrize("make", GATED.values(), ids=GATED.keys())


def alike(make, unit):
    """A model whose gates act in time, and one with the same weights whose gates act by the sample."""
    in_time, by_sample = make(unit), make(None)
    by_sample.load_state_dict(in_time.state_dict())
    return in_time, by_sample


@every_gated
def test_gates_in_time_act_by_the_sample_where_every_gap_is_one_unit(make, relative_error):
    in_time, by_sample = alike(make, 0.25)
    x, times = torch.randn(5, 9, 3, requires_grad=True), (0.25 * torch.arange(9.0)).repeat(5, 1)
    assert torch.equal(in_time(x, times), by_sample(x))
    times[4, -1] += 1  # one irregular gap in the batch: all of it goes by gaps
    found, expected = in_time(x, times)[:4], by_sample(x)[:4]
    assert relative_error(found, expected) < 1e-12
    of_x, of_x_expected = (torch.autograd.grad(features.square().sum(), x)[0] for features in (found, expected))
    assert relative_error(of_x, of_x_expected) < 1e-11
    assert torch.equal(in_time(x), by_sample(x))


@every_gated
def test_a_gap_of_three_units_does_what_three_steps_with_the_same_gates_would(make, relative_error):
    in_time, by_sample = alike(make, 1.0)
    with torch.no_grad():  # gates and candidates depend on the input alone
        if isinstance(in_time, HiPPORNN):
            for layer in (*in_time.modules(), *by_sample.modules()):
                if isinstance(layer, torch.nn.Linear) and layer.out_features == 7:
                    layer.weight[:, 3:] = 0
        else:
            for model in (in_time, by_sample):
                model.rnn.get_parameter("weight_hh_l0").zero_()
    x = torch.randn(4, 3, 3)
    slow = in_time(x, torch.tensor([[0.0, 3.0, 4.0]]).expand(4, -1))
    repeated = by_sample(torch.cat([x[:, :1], *[x[:, 1:2]] * 3, x[:, 2:]], dim=1))
    assert relative_error(slow, repeated) < 1e-12


@every_gated
def test_a_gap_of_nothing_leaves_what_the_gates_hold(make):
    model, x = make(1.0), torch.randn(4, 3, 3)
    if isinstance(model, LSTM):
        with torch.no_grad():  # the output gate acts by the sample
            model.rnn.get_parameter("weight_hh_l0").zero_()
            model.rnn.get_parameter("weight_ih_l0")[-7:] = 0
    x[:, 2] = x[:, 1]
    once, twice = (
        model(x[:, :2], torch.tensor([[0.0, 2.0]]).expand(4, -1)),
        model(x, torch.tensor([[0.0, 2.0, 2.0]]).expand(4, -1)),
    )
    torch.testing.assert_close(twice, once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_open_forget_gate_keeps_the_cell_and_adds_to_it(dtype):
    forget = torch.full((1, 1), 90.0, dtype=dtype)
    zero, write = torch.zeros_like(forget), torch.full_like(forget, 90.0)
    from_x = torch.cat([write, forget, torch.full_like(forget, 0.5), write], dim=1).unsqueeze(0)
    h = cells.lstm(from_x, torch.zeros(4, 1, dtype=dtype), torch.full((1, 1, 1), 3.0, dtype=dtype))
    torch.testing.assert_close(h[0], torch.tanh(3 * torch.tanh(zero + 0.5)))


@every_gated
def test_a_clock_too_coarse_for_its_gaps_is_refused(make):
    model, times = make(60.0).float(), 1.7e9 + 60 * torch.arange(9.0).repeat(4, 1)
    with pytest.raises(ValueError, match="too coarse for the gaps"):
        model(torch.zeros(4, 9, 3, dtype=torch.float32), times.float())
    assert model(torch.zeros(4, 9, 3, dtype=torch.float32), times).isfinite().all()
    long = (500 + torch.arange(2000) / 2).float().repeat(2, 1)  # whose padding has no gaps
    assert model(torch.zeros(2, 2000, 3, dtype=torch.float32), long, lengths=torch.tensor([2000, 2])).isfinite().all()


@every_gated
def test_gates_in_time_act_under_autocast(make):
    model = make(1.0).float()
    x, times = torch.randn(4, 9, 3, dtype=torch.float32), torch.rand(4, 9, dtype=torch.float32).cumsum(1)
    with torch.autocast("cpu", torch.bfloat16):
        features = model(x, times)
    assert (features - model(x, times)).abs().max() < 0.05
    assert torch.autograd.grad(features.float().sum(), model.parameters())[0].isfinite().all()


@pytest.mark.parametrize("unit", [0.0, -1.0, math.nan, math.inf, "second"])
@every_gated
def test_a_unit_that_is_no_length_of_time_is_refused(make, unit):
    with pytest.raises(ValueError, match="gate_unit"):
        make(unit)
