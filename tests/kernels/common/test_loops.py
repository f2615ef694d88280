"""What compiled loops share: functions, threads, and where they are kept."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from hippo.kernels.common import loops


@loops.loop
def activations(x, gate, candidate):
    for i in range(len(x)):
        gate[i] = loops.sigmoid(x[i])
        candidate[i] = loops.tanh(x[i])


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-7), (np.float64, 5e-16)])
def test_activations_are_exact_to_rounding_near_zero_too(dtype, bound):
    x = np.concatenate([np.linspace(-60, 60, 2001), np.linspace(-1e-5, 1e-5, 1000)]).astype(dtype)
    gate, candidate = np.empty_like(x), np.empty_like(x)
    activations(x, gate, candidate)
    exact = torch.from_numpy(x.astype(np.float64))
    for actual, expected in ((gate, exact.sigmoid()), (candidate, exact.tanh())):
        error = (torch.from_numpy(actual) - expected).abs() / expected.abs().clamp(min=1e-30)
        assert error.max() <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_saturate_and_keep_nan(dtype):
    x = np.array([-np.inf, -1e4, 1e4, np.inf, np.nan], dtype)
    gate, candidate = np.empty_like(x), np.empty_like(x)
    activations(x, gate, candidate)
    np.testing.assert_allclose(gate, [0, 0, 1, 1, np.nan], atol=1e-36)
    np.testing.assert_array_equal(candidate, [-1, -1, 1, 1, np.nan])


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (33, 2), (50, 3), (100, 2), (128, 8), (100, 6)])
def test_every_sample_is_one_threads(batch, threads):
    parts = loops.split(batch, threads)
    assert len(parts) == threads
    assert [b for begin, end in parts for b in range(begin, end)] == list(range(batch))
    sizes = [end - begin for begin, end in parts]
    assert max(sizes) - min(sizes) <= 7


def test_a_kept_loop_is_told_from_that_of_another_version_of_this_file():
    assert activations.__qualname__.endswith(loops._DIGEST)
