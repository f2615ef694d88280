"""Orthogonal recurrence against its equation, and its orthogonality in training."""

import pytest
import scipy.linalg
import torch

from hippo.models import ExpRNN

pytestmark = pytest.mark.usefixtures("float64")


def distance_from_orthogonal(model):
    W = model.recurrent.weight.detach()
    return (W.mT @ W - torch.eye(len(W), dtype=W.dtype)).abs().max().item()


@pytest.mark.parametrize("hidden", [1, 2, 7, 8])
def test_the_recurrence_starts_as_rotations_of_planes(hidden):
    W = ExpRNN(3, hidden).recurrent.weight.detach()
    assert distance_from_orthogonal(ExpRNN(3, hidden)) < 1e-12
    blocks = torch.block_diag(*[torch.ones(2, 2)] * (hidden // 2), *[torch.ones(1, 1)] * (hidden % 2))
    assert (W[blocks == 0].abs() < 1e-12).all()
    assert torch.linalg.det(W).item() == pytest.approx(1)


def test_the_matrix_stays_orthogonal_in_training():
    """In single precision, to 1e-5, over fifty steps at a rate that moves it far."""
    torch.manual_seed(0)
    model = ExpRNN(1, 32).float()
    before = model.recurrent.weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    x, y = torch.randn(16, 10, 1, dtype=torch.float32), torch.randn(16, 32, dtype=torch.float32)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert distance_from_orthogonal(model) < 1e-5
    assert (model.recurrent.weight - before).abs().max() > 0.1
    assert losses[-1] < losses[0]


def test_the_matrix_is_the_exponential_of_its_skew_parameters(relative_error):
    model = ExpRNN(1, 6)
    original, base = model.recurrent.parametrizations.weight.original, model.recurrent.parametrizations.weight[0].base
    with torch.no_grad():
        original.normal_()
    skew = original.detach().tril(-1)
    expected = base @ torch.from_numpy(scipy.linalg.expm((skew - skew.mT).numpy()))
    assert relative_error(model.recurrent.weight, expected) < 1e-12


def test_the_network_is_its_equation(relative_error):
    model, x, h = ExpRNN(3, 7), torch.randn(4, 9, 3), torch.zeros(4, 7)
    with torch.no_grad():
        model.threshold.normal_()
    for x_k in x.unbind(1):
        z = x_k @ model.input.weight.mT + h @ model.recurrent.weight.mT
        h = torch.sign(z) * torch.clamp(z.abs() + model.threshold, min=0)
    assert relative_error(model(x), h) < 1e-13


def test_the_state_neither_grows_nor_shrinks_without_input_and_threshold():
    model = ExpRNN(1, 8)
    with torch.no_grad():
        model.threshold.zero_()
    x = torch.zeros(1, 500, 1)
    x[0, 0] = 1
    norms = [torch.linalg.vector_norm(h).item() for h in model.unroll(x, None, None)[0]]
    assert norms[-1] == pytest.approx(norms[0], rel=1e-10)
