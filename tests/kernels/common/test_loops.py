"""What compiled loops share: functions, threads, and where they are kept."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
import numba
from numba import extending

from hippo.kernels.common import loops


@loops.loop
def activations(x, gate, candidate):
    for i in range(len(x)):
        gate[i] = loops.sigmoid(x[i])
        candidate[i] = loops.tanh(x[i])


@loops.loop
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = loops.exp(x[i])


@pytest.mark.parametrize(("dtype", "lowest", "bound"), [(np.float32, -85, 2e-7), (np.float64, -700, 4e-16)])
def test_the_exponential_is_exact_to_rounding_and_keeps_nan(dtype, lowest, bound):
    x = np.concatenate([np.linspace(lowest, 3, 2001), np.linspace(-1e-5, 1e-5, 1000), [-np.inf, np.nan]]).astype(dtype)
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out[:-2], np.exp(x[:-2].astype(np.float64)), rtol=bound)
    assert 0 <= out[-2] < 1e-36
    assert np.isnan(out[-1])


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


PRODUCTS = {"SciPy's library": loops._by_scipy} | ({"MKL": loops._by_mkl} if loops._MKL is not None else {})
LIMITS = ["every library's, of the process"] + (["MKL's, of a thread"] if loops._MKL is not None else [])


def test_the_mkl_that_torch_has_is_found_on_linux():
    assert (loops._MKL is not None) == (sys.platform == "linux" and torch.backends.mkl.is_available())


@pytest.fixture(params=PRODUCTS)
def product(request):
    """The product by one of the libraries, which loops that the test compiles may call."""

    def product(a, b, out):
        raise NotImplementedError

    extending.overload(product, jit_options=loops._OPTIONS)(PRODUCTS[request.param])
    product.symbol = "hippo_" if request.param == "MKL" else "numba_xxge"
    return product


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [3, None])
def test_products_are_numpys(product, dtype, columns):
    @numba.njit
    def times(a, turned, b, out, by_turned):
        product(a, b, out)
        product(turned.T, b, by_turned)

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(5, columns) if columns else 5).astype(dtype)
    results = np.full((2, *(a @ b).shape), np.nan, dtype)
    times(a, a.T.copy(), b, *results)
    np.testing.assert_allclose(results, np.stack([a @ b] * 2), rtol=0, atol=10 * np.finfo(dtype).eps)
    code = times.inspect_llvm(times.signatures[0])
    assert {symbol for symbol in ("hippo_", "numba_xxge") if symbol in code} == {product.symbol}


@pytest.mark.skipif(loops._MKL is None, reason="SciPy's products copy such matrices")
def test_products_of_matrices_that_are_not_contiguous_are_not_compiled():
    @numba.njit
    def times(a, b, out):
        loops.product(a, b, out)

    matrix = np.ones((6, 6))
    with pytest.raises((AssertionError, numba.TypingError), match=r"float64, 2d?, '?A"):
        times(matrix[::2], matrix, matrix[::2].copy())


@pytest.mark.parametrize("limit", LIMITS)
def test_threads_of_products_are_put_back_whoever_ends_last(limit, monkeypatch):
    """One computation begins and ends within another."""
    if limit.startswith("every"):
        monkeypatch.setattr(loops, "_MKL", None)

    def counts():
        if loops._MKL is None:
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


def test_a_loop_is_compiled_again_when_a_source_of_the_kernels_has_changed(tmp_path, monkeypatch):
    def hits() -> int:
        def double(x):
            return x + x

        monkeypatch.setattr(loops, "_DIGEST", loops._digest(tmp_path / "kernels", mkl=True))
        function = loops.loop(double)
        function(1.0)
        return sum(function.stats.cache_hits.values())

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    source = tmp_path / "kernels" / "operation" / "cpu.py"
    source.parent.mkdir(parents=True)
    source.write_text("factor = 1")
    assert [hits(), hits()] == [0, 1]
    source.write_text("factor = 2")
    assert hits() == 0
