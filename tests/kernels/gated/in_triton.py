"""Triton's kernels against what they replace. test_gpu.py runs this, once in Triton's interpreter, once on a GPU."""

import os

import pytest
import torch

from hippo import measures
from hippo.kernels.common import gpus
from hippo.kernels.gated import gpu as gated_gpu
from hippo.kernels.legs import gpu as legs_gpu
from hippo.kernels.legs.naive import legs_step
from hippo.models import HiPPORNN
from tests.kernels.gated import plain

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
LARGE: list = [] if INTERPRETED else [(512, 1024, 100, 1), (1000, 1024, 100, 2), (2049, 1024, 33, 1)]
pytestmark = pytest.mark.filterwarnings("ignore:no CUDA graph" if INTERPRETED else "error::RuntimeWarning")


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def samples(order: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients and a gradient (B, N), input and steps (B,), one of them 0."""
    step = numbers(batch, seed=3).sigmoid()
    if batch > 2:
        step[2] = 0
    return numbers(batch, order), numbers(batch, order, seed=1), numbers(batch, seed=2), step


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("order", "rows", "batch", "columns"), [(1, 1024, 6, 1), (19, 8, 5, 1), (16, 8, 5, 4), *LARGE])
def test_a_step_is_that_of_the_equations_and_so_are_its_gradients(order, rows, batch, columns, alpha, monkeypatch):
    monkeypatch.setattr(legs_gpu, "ROWS", rows)  # more orders than rows are taken block by block
    monkeypatch.setattr(legs_gpu, "COLUMNS", columns)
    c, weight, f, step = samples(order, batch)
    step = step if alpha >= 0.5 else step / order  # the explicit side amplifies longer steps
    leaves = [v.clone().requires_grad_() for v in (c, f)]
    expected = legs_step(*leaves, step, alpha)
    gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    got = c.new_empty(batch, order + 3)[:, :order] if batch == 5 else c.clone()  # rows apart, or in place
    legs_gpu.advance(c if batch == 5 else got, step, f, alpha, got)
    assert (got - expected).abs().max() <= 1e-10
    assert torch.equal(got[step == 0], c[step == 0])
    before, grad_f = weight.clone(), torch.empty_like(f)
    legs_gpu.retreat(before, step, grad_f, alpha, before)
    assert (before - gradients[0]).abs().max() <= 1e-10
    assert (grad_f - gradients[1]).abs().max() <= 1e-10
    assert torch.equal(before[step == 0], weight[step == 0])


def test_a_step_under_a_power_of_time_is_that_of_the_equations_and_so_are_its_gradients():
    c, weight, f, step = samples(19, 5)
    leaves = [v.clone().requires_grad_() for v in (c, f)]
    expected = legs_step(*leaves, step, 0.5, 0.7)
    gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    got, before, grad_f = torch.empty_like(c), weight.clone(), torch.empty_like(f)
    legs_gpu.advance(c, step, f, 0.5, got, 0.7)
    legs_gpu.retreat(weight, step, grad_f, 0.5, before, 0.7)
    for one, other in [(got, expected), (before, gradients[0]), (grad_f, gradients[1])]:
        assert (one - other).abs().max() <= 1e-10


def test_in_single_precision_a_step_rounds_like_the_equations():
    c, weight, f, step = (v.float() for v in samples(100, 5))
    got, before, grad_f = torch.empty_like(c), torch.empty_like(c), torch.empty_like(f)
    legs_gpu.advance(c, step, f, 0.5, got)
    legs_gpu.retreat(weight, step, grad_f, 0.5, before)
    leaves = [v.double().requires_grad_() for v in (c, f)]
    exact = legs_step(*leaves, step.double())
    gradients = torch.autograd.grad((exact * weight).sum(), leaves)
    for one, truth in [(got, exact), (before, gradients[0]), (grad_f, gradients[1])]:
        assert (one - truth).abs().max() <= 3e-6 * truth.abs().max()


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    ("order", "rows", "length", "batch", "power"),
    [(1, 1024, 1, 1, 0.0), (7, 1024, 3, 2, 0.0), (7, 4, 3, 2, 0.0), (7, 4, 3, 2, 0.7)],
)
def test_a_sequence_is_its_steps_and_so_are_gradients_of_any_order(
    order, rows, length, batch, power, every, monkeypatch
):
    monkeypatch.setattr(legs_gpu, "ROWS", rows)
    c, f, step = numbers(order, batch).mT, numbers(length, batch, seed=1).mT, numbers(length, batch, seed=2).sigmoid()
    step[length // 2, batch // 2] = 0
    leaves = [v.requires_grad_() for v in (c, f)]
    state, states = c, []
    for t in range(length):
        state = legs_step(state, f[:, t], step[t], 0.5, power)
        states.append(state)
    expected = torch.stack(states, 1) if every else state
    got = legs_gpu.sequence(c, f, step, 0.5, every, power)
    weight = numbers(*expected.shape, seed=3)
    found = []
    for result in (got, expected):
        first = torch.autograd.grad((result.square() * weight).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(v.square().sum() for v in first), leaves)
        found.append([result, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_state_is_that_of_tensor_operations(monkeypatch):
    monkeypatch.setattr(gated_gpu, "_BLOCK", 64)  # several for a sample
    h, z, write, written = numbers(7, 150), 3 * numbers(7, 300, seed=1), numbers(150, seed=2), numbers(7, seed=3)
    z[:2, 0] = z[:2, 150] = torch.tensor([900.0, -900.0])
    z[2, 0] = z[2, 150] = torch.nan
    found = []
    for update_state in (gated_gpu.update_state, plain.update_state):
        gates, after, u = z.clone(), torch.empty_like(h), torch.empty_like(written)
        update_state(gates, h, write, written, after, u)
        found.append((gates, after, u))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13, equal_nan=True)


def test_a_state_s_adjoint_is_that_of_tensor_operations():
    h, gates, write = numbers(7, 90), numbers(7, 180, seed=1).sigmoid(), numbers(90, seed=2)
    grad_h, grad, grad_u = numbers(7, 90, seed=3), numbers(7, 90, seed=4), numbers(7, seed=5)
    found = []
    for adjoint in (gated_gpu.update_state_adjoint, plain.update_state_adjoint):
        total, grad_z = grad_h.clone(), torch.empty_like(gates)
        adjoint(gates, h, write, grad_u, grad, total, grad_z)
        found.append((total, grad_z))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_states_keep_their_digits(dtype):
    """From h = 0 with an open gate the state is tanh(z), to 4 units in the last place at every size."""
    z = torch.logspace(-8, 1, 2001, dtype=torch.float64).to(dtype).to(DEVICE)
    z = torch.cat([z, torch.tensor([0.3499999, 0.35, 0.3500001, 1e-30], dtype=dtype, device=DEVICE)])
    z = torch.cat([z, -z])
    zero, none = torch.zeros(1, len(z), dtype=dtype, device=DEVICE), torch.zeros(1, dtype=dtype, device=DEVICE)
    gates, state = torch.cat([zero + 200, z.unsqueeze(0)], 1), torch.empty_like(zero)
    gated_gpu.update_state(gates, zero, zero[0], none, state, torch.empty_like(none))
    exact = z.double().tanh()
    assert ((state[0].double() - exact) / exact).abs().max() <= 4 * torch.finfo(dtype).eps


def test_what_would_be_read_wrongly_is_refused():
    c, u, step = numbers(7, 5), numbers(7), numbers(7).sigmoid()
    for coefficients, steps, inputs in [
        (c.float(), step, u),
        (c, step.float(), u),
        (c, step[:6], u),
        (c[:, :4], step, u),
        (c, numbers(7, 2)[:, 0], u),
        (c, step, numbers(7, 2)[:, 0]),
    ]:
        for run in (legs_gpu.advance, legs_gpu.retreat):
            with pytest.raises(ValueError, match=r"contiguous|of one dtype"):
                run(coefficients, steps, inputs, 0.5, torch.empty_like(c))
    z, h, write = numbers(7, 10), numbers(7, 5), numbers(5)
    with pytest.raises(ValueError, match="contiguous"):
        gated_gpu.update_state(z, numbers(5, 7).mT, write, u, torch.empty_like(h), u)
    with pytest.raises(ValueError, match="contiguous"):
        gated_gpu.update_state_adjoint(z, h, write, u, numbers(5, 7).mT, h, z)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "memory",
    [{}, {"memory_order": 20, "discretization": 0.3}, {"measure": measures.LegT(20.0), "discretization": "zoh"}],
    ids=str,
)
def test_the_network_with_them_is_the_equations_and_so_is_every_gradient(memory, own, monkeypatch):
    monkeypatch.setattr(gpus, "serves", lambda *_: True)
    monkeypatch.setattr(gated_gpu, "STEPS", 4)  # the last chunk is not full
    torch.manual_seed(0)
    model = HiPPORNN(3, 9, **memory).double().to(DEVICE)
    x, weight = numbers(3, 7, 3).requires_grad_(), numbers(7, 3, 9, seed=1)
    timestamps = numbers(3, 7, seed=2).abs().cumsum(1) if own else None
    if timestamps is not None:
        timestamps[1, 4:] = timestamps[1, 3]  # ends there
        timestamps[2, :3] = 0.0  # begins at zero, and stays
    results = []
    for function in (model.states, model.step_by_step):
        hidden = torch.stack(tuple(function(x, timestamps)))
        some = (hidden * weight)[[1, 2, 6]].sum()  # gradients reach some of the states only
        results.append([hidden, *torch.autograd.grad(some, [x, *model.parameters()])])
    for one, reference in zip(*results, strict=True):
        assert (one - reference).abs().max() <= 1e-10 * reference.abs().max()
    expected = "gpu: kernel by kernel" if INTERPRETED else "gpu: graphs"
    assert model.route == ("naive" if own and "measure" in memory else expected)
