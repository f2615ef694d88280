"""Triton's kernels against what they replace. test_gpu.py runs this, once in Triton's interpreter, once on a GPU."""

import os

import pytest
import torch

from hippo.kernels import gated
from hippo.kernels.gated import steps as gates
from hippo.kernels.legs import gpu as scan
from hippo.kernels.legs.gpu import Scan
from hippo.kernels.legs.naive import legs_step
from hippo.models import HiPPORNN

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
LARGE = [] if INTERPRETED else [(512, 1024, 100), (1000, 1024, 100), (2049, 1024, 33)]


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, chosen on this device whatever it is."""
    from hippo.kernels.gated import gpu as fused

    monkeypatch.setattr(scan, "kernels", lambda tensor: fused)
    return fused


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def samples(order: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients and a gradient (N, B), input and steps (B,), one of them 0."""
    step = numbers(batch, seed=3).sigmoid()
    if batch > 2:
        step[2] = 0
    return numbers(order, batch), numbers(order, batch, seed=1), numbers(batch, seed=2), step


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("order", "rows", "batch"), [(1, 1024, 6), (19, 1024, 6), (19, 8, 5), (16, 8, 1), *LARGE])
def test_a_scan_is_the_sweep_and_so_are_its_gradients(order, rows, batch, alpha, kernels, monkeypatch):
    monkeypatch.setattr(kernels, "ROWS", rows)  # more orders than rows are taken block by block
    c, weight, f, step = samples(order, batch)
    step = step if alpha >= 0.5 else step / order  # the explicit side amplifies longer steps
    given = [v.clone().requires_grad_() for v in (c, f)]
    expected = legs_step(given[0].mT, given[1], step, alpha).mT
    gradients = torch.autograd.grad((expected * weight).sum(), given)
    operator, entering = Scan(order, step, alpha), f.clone().unsqueeze(0)
    got = torch.empty_like(c) if batch == 5 else c.new_empty(batch, order + 3)[:, :order].mT  # of any strides
    operator.forward(c, entering, got)
    assert (got - expected).abs().max() <= 1e-10
    assert torch.equal(got[:, step == 0], c[:, step == 0])
    before = torch.empty_like(c)
    operator.backward(weight, entering, before)
    assert (before - gradients[0]).abs().max() <= 1e-10
    assert (entering[-1] - gradients[1]).abs().max() <= 1e-10
    assert torch.equal(before[:, step == 0], weight[:, step == 0])


def test_as_many_orders_as_two_blocks_hold(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "COLUMNS", 1)
    c, weight, f, step = samples(2048, 1)
    got, before, entering = torch.empty_like(c), torch.empty_like(c), f.clone().unsqueeze(0)
    Scan(2048, step, 0.5).forward(c, entering, got)
    assert (got - legs_step(c.mT, f, step).mT).abs().max() <= 1e-10
    Scan(2048, step, 0.5).backward(weight, entering, before)
    moved = (weight * (got - legs_step(torch.zeros_like(c).mT, f, step).mT)).sum()  # the part linear in c
    torch.testing.assert_close((before * c).sum(), moved, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entering[-1], weight[0] - before[0], rtol=1e-10, atol=1e-10)


def test_in_single_precision_a_scan_rounds_like_the_sweep(kernels):
    c, weight, f, step = (v.float() for v in samples(100, 5))
    got, before, entering = torch.empty_like(c), torch.empty_like(c), f.clone().unsqueeze(0)
    Scan(100, step, 0.5).forward(c, entering, got)
    Scan(100, step, 0.5).backward(weight, entering, before)
    given = [v.double().requires_grad_() for v in (c, f)]
    exact = legs_step(given[0].mT, given[1], step.double()).mT
    gradients = torch.autograd.grad((exact * weight).sum(), given)
    for one, truth in [(got, exact), (before, gradients[0]), (entering[-1], gradients[1])]:
        assert (one - truth).abs().max() <= 3e-6 * truth.abs().max()


@pytest.mark.parametrize("channels", [1, 3])
def test_what_enters_is_that_of_tensor_operations(channels, kernels):
    x, h, written, write = numbers(channels, 6).mT, numbers(6, 37, seed=1), numbers(6, seed=2), numbers(37, seed=3)
    (u, seen), (expected, copied) = ((torch.empty_like(written), numbers(6, 9)[:, 5:][:, :channels]) for _ in range(2))
    kernels.enter(x, h, written, write, u, seen)
    gates.enter(x, h, written, write, expected, copied)
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-13)
    assert torch.equal(seen, copied)


def test_a_gate_is_that_of_tensor_operations(kernels):
    h, z = numbers(7, 150), 3 * numbers(7, 300, seed=1)
    z[:2, 0] = torch.tensor([900.0, -900.0])
    z[:2, 150] = torch.tensor([900.0, -900.0])
    (got, after), (expected, plain) = ((torch.empty_like(h), z.clone()) for _ in range(2))
    kernels.gate(after, h, got)
    gates.gate(plain, h, expected)
    torch.testing.assert_close(after, plain, rtol=0, atol=1e-14)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("u", [None, numbers(7, seed=4)], ids=["last", "written"])
@pytest.mark.parametrize("grad", [None, numbers(90, 7, seed=5).mT], ids=["", "read"])
def test_a_gate_s_adjoint_is_that_of_tensor_operations(u, grad, kernels):
    h, values, write, grad_h = numbers(7, 90), numbers(7, 180, seed=1).sigmoid(), numbers(90, seed=2), numbers(7, 90)
    (got, got_z), (expected, expected_z) = ((grad_h.clone(), torch.empty_like(values)) for _ in range(2))
    kernels.gate_adjoint(values, h, write, u, grad, got, got_z)
    gates.gate_adjoint(values, h, write, u, grad, expected, expected_z)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(got_z, expected_z, rtol=0, atol=1e-13)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("memory", [{}, {"memory_order": 20, "discretization": 0.3}], ids=str)
def test_the_network_with_them_is_the_loop_and_so_is_every_gradient(memory, own, kernels, monkeypatch):
    monkeypatch.setattr(gated, "_span", lambda like: 4)  # the last products are of fewer steps
    torch.manual_seed(0)
    model = HiPPORNN(3, 9, **memory).double().to(DEVICE)
    x, weight = numbers(3, 7, 3).requires_grad_(), numbers(7, 3, 9, seed=1)
    timestamps = numbers(3, 7, seed=2).abs().cumsum(1) if own else None
    if timestamps is not None:
        timestamps[1, 4:] = timestamps[1, 3]  # ends there
        timestamps[2, :3] = 0.0  # begins at zero, and stays
    operators = model.memory.operators(7, timestamps, like=x)
    assert operators is not None
    assert isinstance(operators[-1], Scan)
    results = []
    for function in (lambda *given: model.unroll(*given, None), model.step_by_step):
        hidden = torch.stack(tuple(function(x, timestamps)))
        some = (hidden * weight)[[1, 2, 6]].sum()  # gradients reach some of the states only
        results.append([hidden, *torch.autograd.grad(some, [x, *model.parameters()])])
    for one, reference in zip(*results, strict=True):
        assert (one - reference).abs().max() <= 1e-10 * reference.abs().max()
