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
