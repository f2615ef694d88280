"""The compiled LegS steps against those in tensor operations, in float64."""

import subprocess
import sys

import pytest
import torch

from hippo import HiPPO
from hippo.kernels.common import native
from hippo.kernels.legs import cpu, naive
from hippo.kernels.legs.naive import legs_step
from hippo.models import HiPPORNN
from tests.kernels.pairs import assert_pair


@pytest.mark.filterwarnings("error")
def test_numba_is_loaded_when_needed_and_without_it_all_is_the_same_and_nothing_is_said():
    code = """
import sys, torch
import hippo.kernels
from hippo.models import HiPPORNN
print("numba" in sys.modules)
sys.modules["numba"] = None
torch.manual_seed(0)
print(hippo.kernels.compiled(), HiPPORNN(2, 5).double()(torch.ones(3, 9, 2).double()).sum().item())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded, compiled, without = done.stdout.split()
    assert (loaded, compiled) == ("False", "False")
    torch.manual_seed(0)
    assert abs(HiPPORNN(2, 5).double()(torch.ones(3, 9, 2).double()).sum().item() - float(without)) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("order", "length", "batch"), [(1, 1, 1), (5, 3, 2), (33, 150, 4), (256, 64, 1)])
@pytest.mark.parametrize("every", [False, True])
def test_a_sequence_is_its_steps_and_so_are_its_gradients(order, length, batch, alpha, every):
    pytest.importorskip("numba")
    torch.manual_seed(0)
    c, f, step = (
        torch.rand(shape, dtype=torch.float64) for shape in [(batch, order), (batch, length), (length, batch)]
    )
    step = step if alpha >= 0.5 else step / order  # the explicit side amplifies longer steps
    shifted = [(v - 0.5).requires_grad_() for v in (c, f)]
    state, expected = shifted[0], []
    for sample, d in zip(shifted[1].unbind(1), step, strict=True):
        state = legs_step(state, sample, d, alpha)
        expected.append(state)
    expected = torch.stack(expected, 1) if every else state
    got = cpu.sequence(*shifted, step, alpha, every)
    upstream = torch.rand_like(expected)
    pairs = [(got, expected), *zip(*(torch.autograd.grad(v, shifted, upstream) for v in (got, expected)), strict=True)]
    for mine, theirs in pairs:
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("power", [-0.5, 3.5])
def test_a_power_of_time_is_that_of_the_reference_and_so_are_its_gradients(power):
    pytest.importorskip("numba")
    c, f, step = (torch.rand(shape, dtype=torch.float64) for shape in [(3, 17), (3, 70), (70, 3)])
    for alpha in (0.5, 1.0):
        assert_pair(
            lambda c, f, alpha=alpha: cpu.sequence(c, f, step, alpha, True, power),
            lambda c, f, alpha=alpha: naive.sequence(c, f, step, alpha, True, power),
            [c.requires_grad_(), f.requires_grad_()],
            bound=1e-12,
        )


def test_a_step_of_zero_changes_nothing_at_all():
    pytest.importorskip("numba")
    c, f = torch.randn(7, 33), torch.randn(7, 4)
    step = torch.rand(4, 7)
    step[:, 3] = 0
    assert torch.equal(cpu.sequence(c, f, step, 0.5, every=False)[3], c[3])


def test_in_single_precision_it_rounds_like_the_reference():
    pytest.importorskip("numba")
    c, f, step = torch.rand(7, 256) - 0.5, torch.rand(7, 1) - 0.5, torch.rand(1, 7)
    exact = legs_step(c.double(), f[:, 0].double(), step[0].double())
    assert (cpu.sequence(c, f, step, 0.5, every=False) - exact).abs().max() <= 3e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 5])
def test_one_step_is_a_sequence_of_one(batch, dtype):
    pytest.importorskip("numba")
    c, f = torch.randn(batch, 33, dtype=dtype), torch.randn(batch, dtype=dtype)
    expected = cpu.sequence(c, f[:, None], torch.full((1, 1), 1 / 7, dtype=torch.float64), 0.5, every=False)
    before = c.clone()
    assert torch.equal(cpu.step(c, f, 1 / 7, 0.5), expected)
    assert torch.equal(cpu.step(c.mT.contiguous().mT, f.repeat(2, 1).mT.contiguous()[:, 0], 1 / 7, 0.5), expected)
    assert torch.equal(c, before)


@pytest.mark.parametrize("power", [0.0, 1.5])
@pytest.mark.parametrize("every", [False, True])
def test_a_sequence_has_gradients_of_any_order(every, power):
    pytest.importorskip("numba")
    c, f = (torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in [(2, 4), (2, 5)])
    step = torch.rand(5, 2, dtype=torch.float64)
    squared = lambda c, f: cpu.sequence(c, f, step, 0.5, every, power).square()  # noqa: E731
    assert torch.autograd.gradcheck(squared, (c, f))
    assert torch.autograd.gradgradcheck(squared, (c, f))


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("kind", ["none", "alike", "own", "paused"])
@pytest.mark.parametrize("discretization", ["bilinear", "backward_euler", 0.7])
def test_a_memory_is_the_same_compiled_or_not(monkeypatch, channels, kind, discretization):
    pytest.importorskip("numba")
    memory, signal = HiPPO("legs", 19, discretization), torch.rand(2, 90, *channels, dtype=torch.float64)
    times = torch.rand(2, 90, dtype=torch.float64).cumsum(1)
    times = {"none": None, "alike": times[:1].expand(2, -1), "own": times, "paused": times.clamp(max=30)}[kind]

    def found() -> list[torch.Tensor]:
        parts = [(signal[:, part], None if times is None else times[:, part]) for part in (slice(0, 1), slice(1, 90))]
        first, state = memory(*parts[0])
        second, end = memory(*parts[1], state=state)
        return [first, second, end.coefficients, memory.remember(signal, times).coefficients, memory(signal, times)[0]]

    compiled = found()
    monkeypatch.setattr(native, "refusal", lambda tensor: "so the test wants it")
    for mine, theirs in zip(compiled, found(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)
