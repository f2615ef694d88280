"""Convolution in scale: the memory that it reads, and what becomes of it at another speed or sampling rate."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from hippo import HiPPO
from hippo.mixers import ScaleConvolution
from hippo.models import Stack
from hippo.weighted import Scaled

pytestmark = pytest.mark.usefixtures("float64")

every_rule = pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
every_power = pytest.mark.parametrize("power", [0.0, 0.7])
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def a_stack(depth=2, **settings):
    pooling = settings.pop("pooling", "time")
    return Stack(2, 8, partial(ScaleConvolution, order=6, **settings), depth=depth, pooling=pooling).eval()


def a_signal(samples):
    """Two smooth channels over one unit of time, (1, L, 2), at the ends of equal intervals."""
    t = torch.arange(1, samples + 1) / samples
    return torch.stack([torch.sin(7 * t) + t, torch.cos(4 * t**2)], dim=-1).unsqueeze(0)


@every_rule
@every_power
def test_outputs_are_read_from_the_memory_of_the_measure(discretization, power):
    mixer, x = ScaleConvolution(3, 6, power, discretization), torch.randn(2, 40, 3)
    memory = HiPPO(Scaled(begin=power), 6, discretization)
    coefficients, _ = memory(x)
    expected = torch.einsum("blhn,hn->blh", coefficients, mixer.C) + mixer.D * x
    torch.testing.assert_close(mixer(x)[0], expected, **CLOSE)
    gaps = torch.rand(2, 40) + 0.1
    gaps[:, 0] = gaps[:, 1] if discretization == "zoh" else 0.0  # what the first sample stands for
    coefficients, _ = memory(x, gaps.cumsum(1))
    expected = torch.einsum("blhn,hn->blh", coefficients, mixer.C) + mixer.D * x
    torch.testing.assert_close(mixer(x, rate=gaps)[0], expected, **CLOSE)


def test_under_zoh_an_output_is_the_integral_that_the_layer_says():
    mixer, x = ScaleConvolution(1, 4, 0.7, "zoh"), torch.randn(1, 5, 1)
    nodes = (torch.arange(200_000) + 0.5) / 200_000
    kernel = (Scaled(begin=0.7).basis(4, nodes, 1.0) @ mixer.C[0]) * 1.7 * nodes**0.7
    held = x[0, (nodes * 5).long(), 0]
    expected = (kernel * held).mean() + mixer.D[0] * x[0, -1, 0]
    torch.testing.assert_close(mixer(x)[0][0, -1, 0], expected, rtol=1e-6, atol=1e-6)


@every_rule
def test_times_in_another_unit_and_from_another_origin_give_the_same_features(discretization):
    model, x = a_stack(discretization=discretization), torch.randn(3, 20, 2)
    times = torch.rand(3, 20).cumsum(1)
    features = model(x, times)
    torch.testing.assert_close(model(x, 250 * times), features, **CLOSE)
    torch.testing.assert_close(model(x, times + 40), features, **CLOSE)
    torch.testing.assert_close(model(x, torch.arange(20).expand(3, -1) * 0.01), model(x), **CLOSE)
    assert not torch.allclose(model(x), features, rtol=1e-3)
    model.rate = 3.0
    torch.testing.assert_close(model(x, times), features, **CLOSE)


@every_rule
@every_power
def test_features_of_a_signal_sampled_ever_more_finely_converge_with_the_sampling_interval(discretization, power):
    """Nobody tells the network the rate. Samples are held, or enter a step by one value, so the order is the first."""
    model = a_stack(discretization=discretization, power=power)
    features = [model(a_signal(samples)) for samples in (100, 200, 400, 800, 1600)]
    changes = [(fine - coarse).norm().item() for coarse, fine in pairwise(features)]
    orders = [math.log2(before / after) for before, after in pairwise(changes)]
    assert orders == pytest.approx([1, 1, 1], abs=0.15)
    assert changes[-1] < 2e-3 * features[-1].norm()


@every_rule
def test_outputs_along_the_way_converge_as_well(discretization):
    mixer = ScaleConvolution(2, 6, discretization=discretization)
    outputs = [mixer(a_signal(50 * 2**k))[0][:, 2**k - 1 :: 2**k] for k in range(4)]
    changes = [(fine - coarse).abs().max().item() for coarse, fine in pairwise(outputs)]
    assert all(after < 0.6 * before for before, after in pairwise(changes))


@every_power
def test_under_zoh_samples_that_are_repeated_change_nothing(power):
    mixer, x = ScaleConvolution(3, 9, power, "zoh"), torch.randn(2, 30, 3)
    y, times = mixer(x)[0], torch.tensor([1, 3, 2] * 10)
    torch.testing.assert_close(mixer(x.repeat_interleave(3, dim=1))[0][:, 2::3], y, **CLOSE)
    irregular = mixer(x.repeat_interleave(times, dim=1))[0][:, times.cumsum(0) - 1]
    held = mixer(x, rate=times.expand(2, -1).double())[0]  # its first sample stands for three units, not for one
    assert not torch.allclose(irregular, held, rtol=1e-3)
    held = mixer(x, rate=torch.cat([times[1:2], times[1:]]).expand(2, -1).double())[0]
    longer = torch.cat([times[1:2], times[1:]])
    torch.testing.assert_close(mixer(x.repeat_interleave(longer, dim=1))[0][:, longer.cumsum(0) - 1], held, **CLOSE)
    model = a_stack(depth=1, pooling="last", power=power, discretization="zoh")
    torch.testing.assert_close(model(x[..., :2].repeat_interleave(2, dim=1)), model(x[..., :2]), **CLOSE)


def test_the_bilinear_rule_does_change_where_samples_are_repeated():
    mixer, x = ScaleConvolution(3, 9), torch.randn(2, 30, 3)
    repeated = mixer(x.repeat_interleave(2, dim=1))[0][:, 1::2]
    assert (repeated - mixer(x)[0]).abs().max() > 1e-2


@every_rule
def test_a_sample_at_the_time_of_the_one_before_leaves_the_memory_as_it_is(discretization):
    mixer, x, gaps = ScaleConvolution(2, 5, discretization=discretization), torch.randn(1, 9, 2), torch.ones(1, 9)
    gaps[0, [0, 1, 5]] = 0.0
    (_, (c, time)) = mixer(x, rate=gaps)
    kept = [0, 2, 3, 4, 6, 7, 8]
    _, (expected, same_time) = mixer(x[:, kept], rate=gaps[:, kept])
    torch.testing.assert_close((c, time), (expected, same_time), **CLOSE)


def test_a_dense_readout_reads_all_memories():
    mixer, x = ScaleConvolution(4, 6, channels=2), torch.randn(3, 25, 4)
    assert mixer.C.shape == (4, 2, 6)
    coefficients, _ = HiPPO("legs", 6)(mixer.write(x))
    expected = torch.einsum("blmn,hmn->blh", coefficients, mixer.C) + mixer.D * x
    torch.testing.assert_close(mixer(x)[0], expected, **CLOSE)


def test_the_mean_over_time_weighs_outputs_by_the_gaps_before_them():
    model, x, gaps = a_stack(), torch.randn(2, 9, 2), torch.rand(2, 9) + 0.1
    gaps[1, 1:3] = 0.0  # of the second sequence, three samples at its first moment
    times, weights = gaps.cumsum(1), gaps.clone()
    weights[0, 0], weights[1, 0] = gaps[0, 1], gaps[1, 3]
    outputs = model.unroll(x, times, None)
    expected = (weights.unsqueeze(-1) * outputs).sum(1) / weights.sum(1, keepdim=True)
    torch.testing.assert_close(model(x, times), expected, **CLOSE)
    torch.testing.assert_close(model(x), model.unroll(x, None, None).mean(1), **CLOSE)
    torch.testing.assert_close(model(x[1:, :3], times[1:, :3]), outputs[1:, 0], **CLOSE)  # no time has passed
    state = None
    for k, x_k in enumerate(x.unbind(1)):
        features, state = model.step(x_k, times[:, k], state=state)
    torch.testing.assert_close(features, expected, **CLOSE)


@pytest.mark.parametrize(
    "settings", [{"order": 0}, {"channels": 0}, {"power": -1.0}, {"power": math.inf}, {"discretization": "euler"}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ScaleConvolution(2, **settings)


@pytest.mark.parametrize("channels", [None, 2])
def test_a_step_is_that_of_the_whole_whatever_times_have_passed(channels):
    """Sequences whose times differ, one before its first sample, a sample that is no number, and a function
    transform."""
    mixer = ScaleConvolution(3, order=5, channels=channels)
    c, x = torch.randn(4, channels or 3, 5), torch.randn(4, 3)
    x[3] = math.nan
    with torch.no_grad():
        for times in ([2.0, 2.0, 3.0, 2.0], [-1.0, 2.0, 0.0, 2.0], [2.0] * 4):
            state = c, torch.tensor(times, dtype=torch.float64)
            y, after = mixer(x.unsqueeze(1), state, 1.5)
            torch.testing.assert_close(mixer.step(x, state, 1.5), (y.squeeze(1), after), equal_nan=True)
            assert y[:3].isfinite().all()
        several = torch.randn(6, 4, 3)
        batched = torch.func.vmap(lambda x: mixer.step(x, state)[0])(several)
        torch.testing.assert_close(batched, torch.stack([mixer.step(x, state)[0] for x in several]))
    with pytest.raises(ValueError, match="rate must be"):
        mixer.step(x, state, -1.0)
