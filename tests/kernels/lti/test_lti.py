"""Three forms of one map: recurrence, FFT convolution, associative scan."""

import pytest
import torch

from hippo import HiPPO, discretize
from hippo.kernels import lti
from hippo.measures import LMU, ChebT, FouT, LagT, LegS, LegT, Rand

pytestmark = pytest.mark.usefixtures("float64")

FAST = [lti.scan, lti.convolution]
fast = pytest.mark.parametrize("form", FAST, ids=lambda form: form.__name__)


def error(actual, expected):
    """The largest difference over the largest coefficient."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@fast
@pytest.mark.parametrize("length", [1, 2, 3, 64, 101])
@pytest.mark.parametrize("measure", [LegT(20.0), ChebT(20.0), FouT(20.0), LagT(5.0), LMU(20.0), Rand(20.0)], ids=str)
def test_every_form_is_the_recurrence(form, measure, length):
    for order in (1, 2, 33):
        A, B = discretize.bilinear(*measure.dynamics(order), 1.0)
        f, c = torch.randn(3, 2, length), torch.randn(3, 2, order)
        assert error(form(A, B, f, c), lti.recurrence(A, B, f, c)) < 1e-12


def test_the_recurrence_is_what_it_says():
    A, B, f, c = torch.randn(4, 4) / 4, torch.randn(4), torch.randn(7), torch.randn(4)
    outputs = lti.recurrence(A, B, f, c)
    for k in range(7):
        c = A @ c + B * f[k]
        torch.testing.assert_close(outputs[k], c)


@fast
@pytest.mark.parametrize("measure", [LegT(300.0), ChebT(300.0), FouT(300.0), LagT(50.0)], ids=str)
def test_forms_agree_on_a_long_sequence(form, measure):
    A, B = discretize.zoh(*measure.dynamics(32), 1.0)
    f, c = torch.randn(1, 30_000), torch.zeros(1, 32)
    assert error(form(A, B, f, c), lti.recurrence(A, B, f, c)) < 1e-12


@fast
def test_forms_have_the_same_gradients(form, relative_error):
    A, B = discretize.bilinear(*LegT(20.0).dynamics(9), 1.0)
    f, c = torch.randn(2, 50, requires_grad=True), torch.randn(2, 9, requires_grad=True)
    upstream = torch.randn(2, 50, 9)
    expected = torch.autograd.grad(lti.recurrence(A, B, f, c), (f, c), upstream)
    for actual, wanted in zip(torch.autograd.grad(form(A, B, f, c), (f, c), upstream), expected, strict=True):
        assert relative_error(actual, wanted) < 1e-12


def test_a_scan_confines_rounding_to_what_comes_later():
    A, B = discretize.bilinear(*LegT(20.0).dynamics(9), 1.0)
    f, c = torch.randn(1, 200), torch.zeros(1, 9)
    spiked = f.clone()
    spiked[0, 150] = 1e20
    assert torch.equal(lti.scan(A, B, spiked, c)[:, :150], lti.scan(A, B, f, c)[:, :150])


@pytest.mark.parametrize("form", ["scan", "convolution"])
@pytest.mark.parametrize("discretization", ["bilinear", "zoh", 0.7])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_memory_has_all_forms_and_chunks_of_them(form, discretization, channels):
    memory, signal = HiPPO(ChebT(40.0), 16, discretization), torch.randn(2, 90, *channels)
    expected, final = memory(signal)
    actual, state = memory(signal, form=form)
    assert error(actual, expected) < 1e-12
    assert error(state.coefficients, final.coefficients) < 1e-12
    assert state.time == final.time == 90
    first, state = memory(signal[:, :37], form=form)
    second, state = memory(signal[:, 37:], state=state, form=form)
    assert error(torch.cat([first, second], 1), expected) < 1e-12
    assert state.time == 90


@pytest.mark.parametrize("form", ["scan", "convolution"])
def test_memories_whose_steps_change_have_one_form(form):
    with pytest.raises(ValueError, match="translated measures without timestamps only"):
        HiPPO(LegS(), 4)(torch.zeros(1, 3), form=form)
    with pytest.raises(ValueError, match="translated measures without timestamps only"):
        HiPPO(LegT(2.0), 4)(torch.zeros(1, 3), torch.ones(1, 3), form=form)
    with pytest.raises(ValueError, match="unknown form"):
        HiPPO(LegT(2.0), 4)(torch.zeros(1, 3), form="fft")


def test_float32_is_as_good_as_float32_can_be():
    A, B = discretize.bilinear(*LegT(200.0).dynamics(64), 1.0)
    f, c = torch.randn(2, 3000), torch.zeros(2, 64)
    expected = lti.recurrence(A, B, f, c)
    single = (v.float() for v in (A, B, f, c))
    A, B, f, c = single
    for form in (lti.recurrence, *FAST):
        assert error(form(A, B, f, c).double(), expected) < 2e-5, form.__name__


@pytest.mark.parametrize("length", [64, 1023, 1024, 2500])
@pytest.mark.parametrize("measure", [LegT(800.0), LMU(800.0), LagT(90.0), Rand(80.0)], ids=str)
def test_the_last_coefficients_alone_are_those_of_the_recurrence(measure, length):
    for order in (1, 2, 33, 300):
        A, B = discretize.zoh(*measure.dynamics(order), 1.0)
        f, c = torch.randn(2, length), torch.randn(2, order)
        assert error(lti.last(lti.Blocks.of(A, B), f, c), lti.recurrence(A, B, f, c)[:, -1]) < 1e-11


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_memory_remembers_long_chunks_as_it_does_short_ones(channels):
    memory, signal = HiPPO(LegT(700.0), 20), torch.randn(2, 1500, *channels, requires_grad=True)
    expected = memory(signal)[1]
    state = memory.remember(
        signal[:, 1470:], state=memory.remember(signal[:, 70:1470], state=memory.remember(signal[:, :70]))
    )
    assert error(state.coefficients, expected.coefficients) < 1e-12
    assert state.time == expected.time == 1500
    upstream = torch.randn_like(expected.coefficients)
    one, other = (torch.autograd.grad(s.coefficients, signal, upstream)[0] for s in (state, expected))
    assert error(one, other) < 1e-12


def test_in_float32_a_block_of_samples_rounds_less_than_its_samples_do():
    memory, signal = HiPPO(LegT(1e5), 64), torch.randn(1, 20_000).cumsum(1)
    exact = memory.remember(signal).coefficients
    single = signal.float()
    blocks, steps = memory.remember(single).coefficients.double(), memory(single)[1].coefficients.double()
    assert error(blocks, exact) < 2e-6 < error(steps, exact)
