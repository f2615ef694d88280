"""Band-limited white noise."""

from pathlib import Path

import pytest
import torch

from hippo.data import WhiteNoise, white_noise

NOWHERE = Path("/nonexistent")


@pytest.mark.parametrize("length", [21, 64, 1001])
def test_it_has_the_power_asked_for_and_nothing_above_its_band(length):
    signal = white_noise(3, length, 10, seed=0, rms=0.7)
    assert signal.shape == (3, length)
    assert signal.dtype == torch.float64
    torch.testing.assert_close(signal.square().mean(1).sqrt(), torch.full((3,), 0.7, dtype=torch.float64))
    power = torch.fft.rfft(signal).abs().square()
    assert power[:, 11:].sum() + power[:, 0].sum() < 1e-20 * power.sum()


def test_all_frequencies_of_the_band_are_alike():
    power = torch.fft.rfft(white_noise(4000, 64, 8, seed=0)).abs().square().mean(0)[1:9]
    assert (power / power.mean() - 1).abs().max() < 0.1  # the standard error is 0.016


def test_a_seed_draws_the_same_functions_whatever_their_sampling():
    coarse, fine = (white_noise(2, length, 5, seed=3) for length in (50, 400))
    torch.testing.assert_close(coarse, fine[:, ::8])
    assert not torch.allclose(coarse, white_noise(2, 50, 5, seed=4))


@pytest.mark.parametrize(("length", "cycles"), [(10, 5), (10, 0), (1, 1)])
def test_what_sampling_cannot_show_is_refused(length, cycles):
    with pytest.raises(ValueError, match=f"not {cycles}"):
        white_noise(1, length, cycles, seed=0)


def test_what_is_to_be_known_are_values_of_the_function_from_first_to_last():
    data = WhiteNoise(length=1000, training_length=100, cycles=5, points=12, sizes=(3, 2, 4)).load(NOWHERE)
    assert data.classes == ()
    for split, count, length in zip(data[:3], (3, 2, 4), (100, 100, 1000), strict=True):
        x, y, *rest = split.everything
        assert (x.shape, y.shape, rest) == ((count, length, 1), (count, 12), [None] * 3)
        assert torch.equal(y[:, [0, -1]], x[:, [0, -1], 0])
        assert torch.equal(y[:, 4], x[:, round(4 * (length - 1) / 11), 0])
    assert not torch.allclose(data.train.everything.y[:2], data.validation.everything.y)


def test_a_function_has_the_root_mean_square_of_the_process_that_the_paper_draws_from():
    data = WhiteNoise(length=1000, cycles=50, sizes=(3, 2, 4)).load(NOWHERE)
    for split in data[:3]:
        x = split.everything.x
        torch.testing.assert_close(x.square().mean((1, 2)), torch.full((len(x),), 0.25), rtol=1e-6, atol=0)


def test_no_function_and_no_value_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        WhiteNoise(sizes=(0, 1, 1))
    with pytest.raises(ValueError, match="at least 1"):
        WhiteNoise(points=0)
