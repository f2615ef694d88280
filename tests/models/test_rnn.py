"""Plain and gated recurrent networks against their equations."""

import pytest
import torch
from torch import nn

from hippo.kernels import cells
from hippo.models import GRU, LSTM, MGU, RNN

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
