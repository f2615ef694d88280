"""Orthogonal recurrence against its equation, and its orthogonality in training."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from hippo.kernels import cells
from hippo.models import ExpRNN

pytestmark = pytest.mark.usefixtures("float64")
every_base = pytest.mark.parametrize("base", ["identity", "initial"])


def distance_from_orthogonal(model):
    W = model.recurrent().detach()
    return (W.mT @ W - torch.eye(len(W), dtype=W.dtype)).abs().max().item()


def skew(model):
    lower = model.recurrent.lower.detach().tril(-1)
    return lower - lower.mT


@every_base
@pytest.mark.parametrize("hidden", [1, 2, 7, 8])
def test_the_recurrence_starts_as_rotations_of_planes(hidden, base):
    model = ExpRNN(3, hidden, base)
    W = model.recurrent().detach()
    assert distance_from_orthogonal(model) < 1e-12
    blocks = torch.block_diag(*[torch.ones(2, 2)] * (hidden // 2), *[torch.ones(1, 1)] * (hidden % 2))
    assert (W[blocks == 0].abs() < 1e-12).all()
    assert torch.linalg.det(W).item() == pytest.approx(1)


def test_both_bases_start_from_the_same_matrix():
    first = []
    for base in ("identity", "initial"):
        torch.manual_seed(0)
        first.append(ExpRNN(1, 9, base).recurrent().detach())
    assert torch.equal(*first)


def test_the_first_eigenvalues_are_distributed_as_published():
    """e^{±iφ} with φ = tan(θ/2) and θ uniform in [0, π/2]: P(φ ≤ a) = (4/π) arctan a."""
    values = np.linalg.eigvals(ExpRNN(1, 400).recurrent().detach().numpy())
    np.testing.assert_allclose(abs(values), 1, rtol=1e-12)
    angles = np.angle(values)
    np.testing.assert_allclose(np.sort(angles), np.sort(-angles), atol=1e-12)
    cdf = scipy.stats.kstest(angles[angles > 0], lambda a: 4 / math.pi * np.arctan(np.clip(a, 0, 1)))
    assert cdf.pvalue > 0.05
    assert scipy.stats.kstest(angles[angles > 0], "uniform").pvalue < 0.05


@every_base
def test_the_matrix_stays_orthogonal_in_training(base):
    """To 1e-12 in double precision, and in single to 1e-5, over fifty steps at a rate that moves it far."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        torch.manual_seed(0)
        model = ExpRNN(1, 32, base).to(dtype)
        before = model.recurrent().detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        x, y = torch.randn(16, 10, 1, dtype=dtype), torch.randn(16, 32, dtype=dtype)
        losses = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert distance_from_orthogonal(model) < tolerance
        assert (model.recurrent() - before).abs().max() > 0.1
        assert losses[-1] < losses[0]


@every_base
def test_the_matrix_is_the_exponential_of_its_skew_parameters(relative_error, base):
    model = ExpRNN(1, 6, base)
    first = model.recurrent().detach().clone()
    with torch.no_grad():
        model.recurrent.lower.normal_()
    expected = torch.from_numpy(scipy.linalg.expm(skew(model).numpy()))
    expected = expected if base == "identity" else first @ expected
    assert relative_error(model.recurrent(), expected) < 1e-12


@every_base
def test_the_gradient_of_its_parameters_is_that_of_the_exponential(relative_error, base):
    """Through torch's own matrix exponential and the plain loop; and by scipy's Fréchet derivative, at Sᵀ."""
    model, x, y = ExpRNN(2, 7, base), torch.randn(3, 9, 2), torch.randn(3, 7)
    original = model.recurrent.lower
    first = torch.eye(7) if base == "identity" else model.recurrent().detach().clone()
    with torch.no_grad():
        original.normal_().mul_(0.7)
    (found,) = torch.autograd.grad((model(x) * y).sum(), original)

    free = original.detach().tril(-1).requires_grad_()
    W = first @ torch.linalg.matrix_exp(free - free.mT)
    from_x = model.input(x.transpose(0, 1)).detach()
    loss = (cells.modrelu(from_x, W, model.threshold.detach())[-1] * y).sum()
    grad_W, grad = torch.autograd.grad(loss, (W, free))
    assert relative_error(found, grad.tril(-1)) < 1e-12
    G = scipy.linalg.expm_frechet(skew(model).mT.numpy(), (first.mT @ grad_W).numpy(), compute_expm=False)
    assert relative_error(found, torch.from_numpy(np.tril(G - G.T, -1))) < 1e-12


def test_there_is_one_matrix_exponential_a_forward_pass(monkeypatch):
    calls, exponential = [], torch.linalg.matrix_exp
    model = ExpRNN(1, 4)
    monkeypatch.setattr(torch.linalg, "matrix_exp", lambda A: calls.append(A) or exponential(A))
    model(torch.randn(2, 30, 1))
    assert len(calls) == 1


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match="unknown base 'first'; choose identity or initial"):
        ExpRNN(1, 4, "first")


def test_the_network_is_its_equation(relative_error):
    model, x, h = ExpRNN(3, 7), torch.randn(4, 9, 3), torch.zeros(4, 7)
    with torch.no_grad():
        model.threshold.normal_()
    for x_k in x.unbind(1):
        z = x_k @ model.input.weight.mT + h @ model.recurrent().mT
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
