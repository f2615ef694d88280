"""Sampling: another rate, another clock, missing points."""

import math

import numpy as np
import pytest
import torch

from hippo.data import Sampling
from hippo.data.sampling import sample


def series(count: int = 5, length: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random series, each of its own length, 0 beyond."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (count,), generator=generator)
    lengths[0] = length
    x = torch.randn(count, length, 2, generator=generator, dtype=torch.float64)
    return x * (torch.arange(length) < lengths.unsqueeze(1)).unsqueeze(-1), lengths


def test_without_settings_nothing_changes():
    x, lengths = series()
    sampled = sample(x, lengths, Sampling(), seed=0)
    assert torch.equal(sampled.x, x)
    assert torch.equal(sampled.lengths, lengths)
    assert torch.equal(sampled.timestamps[0], torch.arange(40.0, dtype=torch.float64))


def test_half_the_rate_takes_every_second_sample_and_its_time():
    x, _ = series(length=182)
    lengths = torch.full((5,), 182)
    sampled = sample(x, lengths, Sampling(rate=0.5), seed=0)
    assert sampled.x.shape == (5, 91, 2)
    assert torch.equal(sampled.x, x[:, ::2])
    assert torch.equal(sampled.timestamps, torch.arange(0.0, 182, 2, dtype=torch.float64).expand(5, -1))


@pytest.mark.parametrize("rate", [0.25, 1 / 3, 0.35, 0.7, 1.4, 2, 2.8, 3, 4])
def test_any_rate_is_linear_interpolation_within_each_series(rate):
    x, lengths = series()
    sampled = sample(x, lengths, Sampling(rate=rate), seed=0)
    for k, length in enumerate(lengths.tolist()):
        n = int(sampled.lengths[k])
        at = np.arange(n) / rate
        assert n == math.floor((length - 1) * rate + 1e-9) + 1
        assert at[-1] <= length - 1 + 1e-9 < at[-1] + 1 / rate + 1e-8
        for channel in range(2):
            expected = np.interp(at, np.arange(length), x[k, :length, channel])
            np.testing.assert_allclose(sampled.x[k, :n, channel], expected, atol=1e-12)
        np.testing.assert_allclose(sampled.timestamps[k, :n], at, rtol=1e-15)
        assert (sampled.x[k, n:] == 0).all()


def test_a_time_scale_moves_the_clock_and_nothing_else():
    x, lengths = series()
    plain, slow = (sample(x, lengths, Sampling(drop=0.3, time_scale=scale), seed=1) for scale in (1, 2))
    assert torch.equal(plain.x, slow.x)
    assert torch.equal(2 * plain.timestamps, slow.timestamps)


def test_a_clock_that_counts_samples_is_that_of_the_rate():
    x, lengths = series()
    sampled = sample(x, lengths, Sampling(rate=0.7, time_scale=0.7), seed=1)
    torch.testing.assert_close(sampled.timestamps[0], torch.arange(28, dtype=torch.float64))


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_what_is_left_keeps_its_order_and_its_time(drop):
    x, lengths = series()
    sampled = sample(x, lengths, Sampling(drop=drop), seed=1)
    for k, length in enumerate(lengths.tolist()):
        n = int(sampled.lengths[k])
        assert n == max(1, int(length * (1 - drop) + 1e-9))
        kept = sampled.timestamps[k, :n].long()
        assert (kept.diff() > 0).all()
        assert kept.max() < length
        assert torch.equal(sampled.x[k, :n], x[k, kept])
    if drop == 0.5:
        assert sampled.timestamps[0, :20].tolist() != list(range(0, 40, 2))


def test_dropping_more_drops_from_what_was_left():
    x, lengths = series()
    times = [sample(x, lengths, Sampling(drop=drop), seed=1) for drop in (0.2, 0.5, 0.8)]
    for more, less in zip(times[1:], times[:-1], strict=True):
        for k in range(len(x)):
            kept = [set(s.timestamps[k, : int(s.lengths[k])].tolist()) for s in (more, less)]
            assert kept[0] < kept[1] or lengths[k] < 4


def test_what_is_dropped_depends_on_the_seed_and_differs_between_series():
    x = torch.ones(3, 40, 1)
    lengths = torch.full((3,), 40)
    torch.manual_seed(5)
    first = sample(x, lengths, Sampling(drop=0.5), seed=1).timestamps
    torch.manual_seed(6)
    assert torch.equal(first, sample(x, lengths, Sampling(drop=0.5), seed=1).timestamps)
    assert not torch.equal(first, sample(x, lengths, Sampling(drop=0.5), seed=2).timestamps)
    assert not torch.equal(first[0], first[1])


def test_a_series_of_one_sample_keeps_it():
    x = torch.tensor([[[3.0]]])
    for sampling in (Sampling(rate=0.1), Sampling(rate=4), Sampling(drop=0.9)):
        sampled = sample(x, torch.tensor([1]), sampling, seed=0)
        assert sampled.x.tolist() == [[[3.0]]]
        assert sampled.timestamps.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, "rate must be above 0 and finite, not 0"),
        ({"rate": math.inf}, "rate must be above 0"),
        ({"time_scale": -1}, "time_scale must be above 0"),
        ({"drop": 1}, "drop is a fraction"),
        ({"ratee": 1}, "shifts.slow.ratee: there is no such setting; valid are rate, time_scale, drop"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling.of(settings, "shifts.slow")
