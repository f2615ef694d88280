"""What a memory keeps of a signal: against closed forms and against what it reads back."""

import math

import pytest
import torch

from hippo import HiPPO
from hippo.fidelity import best, missed, order_for
from hippo.frames import ScaledFrame
from hippo.measures import ChebT, FouT, JacS, LagT, LegS, LegT
from hippo.weighted import Fading, Scaled

pytestmark = pytest.mark.usefixtures("float64")


def ramp(length):
    return torch.arange(1, length + 1).unsqueeze(0) / length


def test_powers_of_time_take_as_many_coefficients_as_they_have():
    """Of s², 15/16 of the variance is in the first two polynomials: 4/45 in all, 1/12 in s."""
    shares = best(LegS(), 5, ramp(4000) ** 2)[0]
    expected = torch.tensor([1.0, 1 - 15 / 16, 0.0, 0.0, 0.0])
    assert (shares - expected).abs().max() < 1 / 4000  # for which the signal is held from sample to sample
    assert order_for(LegS(), ramp(4000) ** 2, miss=0.05) == 3
    assert order_for(LegS(), ramp(4000) ** 2, miss=0.07) == 2
    assert order_for(LegS(), torch.randn(1, 4000), most=16) is None


def test_a_wave_takes_its_pair_of_a_fourier_series():
    t = torch.arange(1, 3001) / 3000
    signal = torch.stack([torch.cos(2 * math.pi * 5 * t), torch.sin(2 * math.pi * 2 * t)], dim=-1).unsqueeze(0)
    shares = best(FouT(1.0), 13, signal, t.unsqueeze(0))
    assert shares.shape == (1, 2, 13)
    assert (shares[0, 0, :9] - 1).abs().max() < 1e-3
    assert shares[0, 0, 10:].abs().max() < 1e-3
    assert (shares[0, 1, :3] - 1).abs().max() < 1e-3
    assert shares[0, 1, 4:].abs().max() < 1e-3


@pytest.mark.parametrize("measure", [LegS(), LegT(300.0), Scaled(begin=1.0)], ids=["LegS", "LegT", "power"])
def test_a_memory_misses_what_its_coefficients_cannot_hold_and_what_its_steps_add(measure):
    t = torch.arange(1, 1001)
    signal = torch.stack([torch.sin(t / 60), torch.cos(t / 25)], dim=-1).unsqueeze(0)
    for order, most in ((4, 1.6), (40, 0.01)):
        memory = HiPPO(measure, order, "zoh")
        share, least = missed(memory, signal), best(measure, order, signal)[..., -1]
        assert share.shape == (1, 2)
        assert (share >= least - 1e-4).all()
        assert (share < most).all()
    oldest, newest = measure.window(1000.0)
    state = memory.remember(signal)
    times = torch.linspace(oldest, newest, 4000)[1:-1]
    read = memory.reconstruct(state.coefficients, times, now=1000.0)[0]
    exact = signal[0, (times.ceil().long() - 1).clamp(0, 999)].mT
    w = measure.weight(times, 1000.0)
    mean = (w * exact).sum(-1, keepdim=True) / w.sum()
    by_hand = (w * (read - exact) ** 2).sum(-1) / (w * (exact - mean) ** 2).sum(-1)
    torch.testing.assert_close(share[0], by_hand, rtol=0.05, atol=1e-5)


def test_time_is_that_of_the_timestamps():
    """The second half of the samples is one hundredth of the time, and a constant."""
    times = torch.cat([torch.arange(1, 101) * 1.0, 100 + torch.arange(1, 101) / 100]).unsqueeze(0)
    signal = torch.cat([torch.arange(1, 101) / 100, torch.ones(100)]).unsqueeze(0)
    assert best(LegS(), 2, signal, times)[0, 1] < 1e-2 < best(LegS(), 2, signal)[0, 1]
    assert missed(HiPPO("legs", 2), signal, times)[0] < 2e-2


def test_a_constant_has_no_share_and_a_window_of_one_sample_is_refused():
    assert torch.isnan(best(LegS(), 2, torch.ones(1, 9))).all()
    assert order_for(LegS(), torch.ones(1, 9), most=4) == 1
    with pytest.raises(ValueError, match="fewer than two samples"):
        best(LegT(0.5), 2, torch.randn(1, 9))
    with pytest.raises(ValueError, match="between 0 and 1"):
        order_for(LegS(), torch.randn(1, 9), miss=2.0)


@pytest.mark.parametrize(
    ("measure", "order"),
    [(LegS(), 90), (JacS(-0.5), 90), (ChebT(50.0), 90), (LegT(40.0), 90), (LagT(2.0), 6)],  # six do not reach beyond
    ids=str,
)
def test_few_samples_do_not_make_coefficients_look_better_than_they_are(measure, order):
    """Samples that are repeated, at as many times, are the same signal; more nodes see it in more places."""
    signal = torch.randn(1, 60, generator=torch.Generator().manual_seed(0))
    first = 0 if measure.scale_invariant else 1  # a window's first sample stands for no time
    times = torch.arange(60.0).unsqueeze(0) + 1 - first
    finer = torch.cat([torch.zeros(1, first), torch.arange(1, 20 * (60 - first) + 1.0).unsqueeze(0) / 20], 1)
    again = torch.cat([signal[:, :first], signal[:, first:].repeat_interleave(20, 1)], 1)
    one, other = best(measure, order, signal, times), best(measure, order, again, finer)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert one[0, :60].min() > 1e-3  # as many coefficients as samples do not hold what jumps


def test_what_functions_share_and_an_offset_change_nothing():
    signal = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).cumsum(1)
    for offset in (1e6, 1e8):
        torch.testing.assert_close(best(LegS(), 24, signal + offset), best(LegS(), 24, signal), rtol=1e-5, atol=1e-9)
    cosines = ScaledFrame(lambda order, s: torch.cos(torch.arange(order) * math.pi * s.unsqueeze(-1)))
    pairs = ScaledFrame(lambda order, s: torch.cos((torch.arange(order) // 2) * math.pi * s.unsqueeze(-1)))
    share = best(pairs, 16, signal)[0]
    torch.testing.assert_close(share[1::2], best(cosines, 8, signal)[0], rtol=1e-6, atol=1e-8)
    assert share[-1] <= missed(HiPPO(pairs, 16, "zoh"), signal)[0]


def test_a_few_samples_and_a_long_past():
    assert [order_for(LegS(), torch.tensor([[1.0, 2.0, 1.0]]), miss=miss) for miss in (0.01, 0.002, 0.001)] == [
        135, 677, None
    ]  # fmt: skip
    long = torch.sin(torch.arange(20_000) / 3).unsqueeze(0)
    assert best(LagT(1.0), 64, long).isfinite().all()
    assert best(Fading(1.0), 64, long).isfinite().all()


def test_what_is_no_signal_is_refused_as_by_a_memory():
    signal, backwards = torch.randn(1, 9), torch.arange(9.0, 0.0, -1).unsqueeze(0)
    for bad, times, message in (
        (torch.tensor([[1.0, math.nan, 2.0]]), None, "finite"),
        (torch.zeros(1, 0), None, "L, C ≥ 1"),
        (torch.randn(5), None, r"\(B, L\)"),
        ([1.0, 2.0], None, "must be a tensor"),
        (signal, backwards, "non-decreasing"),
    ):
        with pytest.raises(ValueError, match=message):
            order_for(LegS(), bad, times)
        with pytest.raises(ValueError, match=message):
            missed(HiPPO("legs", 2), bad, times)
    for call in (lambda: best(LegS(), 0, signal), lambda: order_for(LegS(), signal, most=0)):
        with pytest.raises(ValueError, match="at least 1"):
            call()
