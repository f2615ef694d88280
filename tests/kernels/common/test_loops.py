"""What compiled loops share: functions, threads, and where they are kept."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
import numba

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


@pytest.mark.parametrize(
    ("batch", "threads", "shares"), [(1, 1, 1), (33, 4, 2), (50, 3, 3), (100, 2, 2), (128, 8, 8), (100, 7, 6)]
)
def test_every_sample_is_one_threads(batch, threads, shares, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    parts = loops.split(batch)
    assert len(parts) == shares
    assert [b for begin, end in parts for b in range(begin, end)] == list(range(batch))
    sizes = [end - begin for begin, end in parts]
    assert max(sizes) - min(sizes) <= 1


def times(a, b, out):
    loops.product(a, b, out)


def times_transposed(a, b, out):
    loops.product(a.T, b, out)


@pytest.fixture(params=["MKL", "SciPy"])
def blas(request, monkeypatch):
    """Loops compiled within the test call this one."""
    if request.param == "SciPy":
        monkeypatch.setattr(loops, "_MKL", None)
    elif loops._MKL is None:
        pytest.skip("torch has no MKL here")
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [3, None])
def test_products_are_numpys(blas, dtype, columns):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(5, columns) if columns else 5).astype(dtype)
    out = np.full((a @ b).shape, np.nan, dtype)
    numba.njit(times)(a, b, out)
    np.testing.assert_allclose(out, a @ b, rtol=0, atol=10 * np.finfo(dtype).eps)
    out[:] = np.nan
    numba.njit(times_transposed)(a.T.copy(), b, out)
    np.testing.assert_allclose(out, a @ b, rtol=0, atol=10 * np.finfo(dtype).eps)


@pytest.mark.skipif(loops._MKL is None, reason="SciPy's products copy such matrices")
def test_products_of_matrices_that_are_not_contiguous_are_not_compiled():
    matrix = np.ones((6, 6))
    with pytest.raises((AssertionError, numba.TypingError), match=r"float64, 2d?, '?A"):
        numba.njit(times)(matrix[::2], matrix, matrix[::2].copy())


def test_threads_of_products_are_put_back_whoever_ends_last(blas):
    """One computation begins and ends within another."""

    def counts():
        if blas == "SciPy":
            return {library["num_threads"] for library in loops._blas.info()}
        count = loops._MKL.MKL_Set_Num_Threads_Local(0)
        loops._MKL.MKL_Set_Num_Threads_Local(count)
        return {count}

    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # and MKL's for this thread
    with loops._blas.limit(limits=2):
        assert counts() == {2}
        with loops._one_thread_a_product():
            with loops._one_thread_a_product():
                assert counts() == {1}
            assert counts() == {1}
        assert counts() == {2}
    torch.set_num_threads(threads)


def test_a_kept_loop_is_told_from_that_of_another_version_of_this_file():
    assert activations.__qualname__.endswith(loops._DIGEST)
