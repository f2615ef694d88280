"""The compiled loop over a whole sequence, in several threads, against the equations; in one it is in test_gated.py."""

import subprocess
import sys

import pytest
import torch
import torch.utils.checkpoint

from hippo.kernels import gated as kernels
from hippo.measures import JacS
from hippo.models import HiPPORNN

cpu = pytest.importorskip("hippo.kernels.gated.cpu")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def build(dtype: torch.dtype = torch.float64, order: int = 40) -> tuple[HiPPORNN, torch.Tensor]:
    torch.manual_seed(0)
    return HiPPORNN(3, 9, memory_order=order).to(dtype), torch.randn(50, 37, 3, dtype=dtype, requires_grad=True)


def states_and_gradients(model, x, timestamps=None, steps=slice(None)) -> list[torch.Tensor]:
    states = model.states(x, timestamps)
    hidden = torch.stack(tuple(states))
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
    chosen = range(len(states))[steps] if isinstance(steps, slice) else steps
    loss = sum((states[t] * weight[t]).sum() for t in chosen)  # the others have no gradient at all
    return [hidden, *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.fixture
def used(monkeypatch):
    """The number of threads in each call."""
    calls, share = [], cpu.share

    def noted(*arguments, shares):
        calls.append(len(shares))
        return share(*arguments, shares=shares)

    monkeypatch.setattr(cpu, "share", noted)
    return calls


@pytest.mark.parametrize("steps", [slice(None), [3, 4, 7, 8, 20, 33], [36], [0]], ids=["all", "some", "last", "first"])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
def test_it_is_the_equations_and_so_is_every_gradient(steps, timed, dtype, bound, used, monkeypatch):
    model, x = build(dtype)
    timestamps = torch.rand(50, 37, dtype=torch.float64).cumsum(1) if timed else None
    got = states_and_gradients(model, x, timestamps, steps)
    assert used == [3, 3]  # forward and backward
    monkeypatch.setattr(kernels, "choose", lambda *_: "naive")
    for one, other in zip(got, states_and_gradients(model, x, timestamps, steps), strict=True):
        assert (one - other).abs().max() <= bound * other.abs().max()
    assert len(used) == 2


@pytest.mark.parametrize("timed", [False, True])
def test_a_memory_under_a_power_of_time_has_the_same_loop(timed, used, monkeypatch):
    torch.manual_seed(0)
    model, x = HiPPORNN(3, 9, measure=JacS(1.5), memory_order=20).double(), torch.randn(33, 12, 3, dtype=torch.float64)
    timestamps = torch.rand(33, 12, dtype=torch.float64).cumsum(1) if timed else None
    got = states_and_gradients(model, x.requires_grad_(), timestamps)
    assert len(used) == 2
    monkeypatch.setattr(kernels, "choose", lambda *_: "naive")
    for one, other in zip(got, states_and_gradients(model, x, timestamps), strict=True):
        assert (one - other).abs().max() <= 1e-13 * other.abs().max()


@pytest.mark.parametrize(("order", "length"), [(1, 1), (1, 30), (16, 8), (17, 9), (40, 2)])
def test_odd_sizes(order, length, monkeypatch):
    model, x = build(order=order)
    got = states_and_gradients(model, x[:33, :length])
    monkeypatch.setattr(kernels, "choose", lambda *_: "naive")
    for one, other in zip(got, states_and_gradients(model, x[:33, :length]), strict=True):
        assert (one - other).abs().max() <= 1e-13 * other.abs().max()


def test_results_do_not_hang_on_threads_of_the_backward_pass(used):
    model, x = build()
    features = model(x)
    gradients = torch.autograd.grad(features.sum(), list(model.parameters()), retain_graph=True)
    torch.set_num_threads(1)
    again = torch.autograd.grad(features.sum(), list(model.parameters()))
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gates_saturate_and_what_is_not_a_number_stays_so(dtype):
    # One step, from h = 0: the state is σ(g) tanh(z), with g and z the biases.
    values = torch.tensor(
        [0.0, 1e-3, 0.7, -0.7, 5.0, -5.0, 30.0, -30.0, 90.0, -90.0, 1e4, -1e4, torch.nan], dtype=dtype
    )
    model = HiPPORNN(1, len(values) ** 2, memory_order=4).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.gate.bias.copy_(values.repeat(len(values)))
        model.candidate.bias.copy_(values.repeat_interleave(len(values)))
    got = model(torch.zeros(20, 1, 1, dtype=dtype))
    expected = (model.gate.bias.double().sigmoid() * model.candidate.bias.double().tanh()).detach().expand(20, -1)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps, equal_nan=True)


def test_where_no_thread_can_be_had_the_calling_one_does_it(monkeypatch):
    model, x = build()
    expected = states_and_gradients(model, x)

    class Full:
        def submit(self, *_):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr("hippo.kernels.common.threads._pool", lambda *_: Full())
    for one, other in zip(states_and_gradients(model, x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 37])
def test_what_is_kept_may_be_computed_anew_with_other_threads_and_come_back_in_other_strides(length):
    model, x = build()
    x = x[:, :length].detach()
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    again = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    torch.set_num_threads(1)
    got = [torch.autograd.grad(again.sum(), list(model.parameters()))]
    torch.set_num_threads(3)
    turned = lambda v: v.movedim(0, -1).contiguous().movedim(-1, 0)  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(lambda v: v, turned):
        features = model(x)
    got.append(torch.autograd.grad(features.sum(), list(model.parameters())))
    for gradients in got:
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_tensors_of_two_dtypes_are_refused(used):
    model, x = build(torch.float32)
    model.candidate.double()
    with pytest.raises(RuntimeError, match="dtype"):
        model(x)
    assert not used


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_states_are_as_precise_as_large_ones(dtype):
    model, x = build(dtype)
    with torch.no_grad():
        for weight in model.candidate.parameters():
            weight.mul_(1e-7)
    got = torch.stack(tuple(model.states(x, None)))
    exact = torch.stack(model.double().step_by_step(x.double(), None))
    assert (got - exact).abs().max() <= 20 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_tanh_of_a_small_number_keeps_its_digits(dtype):
    """With an open gate the first state is the candidate, tanh(z), at every size of z."""
    z = torch.cat([sign * torch.logspace(-8, 1, 1000, dtype=torch.float64) for sign in (1, -1)]).to(dtype)
    model = HiPPORNN(1, len(z), memory_order=1).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.gate.bias.fill_(200)
        model.candidate.bias.copy_(z)
    got, exact = model(torch.zeros(1, 1, 1, dtype=dtype))[0].detach().double(), z.double().tanh()
    assert ((got - exact) / exact).abs().max() <= 4 * torch.finfo(dtype).eps


def test_a_fork_has_threads_of_its_own():
    code = """
import os, torch
from hippo.models import HiPPORNN
torch.set_num_threads(3)
model, x = HiPPORNN(3, 9), torch.randn(50, 7, 3)
expected = model(x)
if child := os.fork():
    print(os.waitpid(child, 0)[1])
else:
    os._exit(int(not torch.equal(model(x), expected)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "0\n"


@pytest.mark.parametrize(("batch", "count"), [(5, 1), (32, 2), (100, 3)])
def test_few_samples_are_not_shared_among_more_threads_than_is_worth_it(batch, count, used):
    model, _ = build()
    model(torch.zeros(batch, 2, 3, dtype=torch.float64))
    assert used == [count]
