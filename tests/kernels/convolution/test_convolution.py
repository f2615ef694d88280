"""Convolution by FFT against the sum that defines it."""

import pytest
import torch

from hippo.kernels import convolution
from hippo.kernels.convolution import fourier, naive

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("length", "reach", "shared"), [(1, 1, False), (13, 13, False), (50, 7, False), (31, 31, True)]
)
def test_outputs_and_gradients_are_those_of_the_sum(length, reach, shared, monkeypatch):
    monkeypatch.setattr(fourier, "_VALUES", 2 * 3 * fourier.padded(length + reach - 1))  # two sequences at a time
    x = torch.randn(5, length, 1 if shared else 3, requires_grad=True)
    kernel = torch.randn(3, reach, requires_grad=True)
    weight = torch.randn(5, length, 3)
    actual, expected = (form.convolve(x, kernel) for form in (convolution, naive))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((actual * weight).sum(), [x, kernel]),
        torch.autograd.grad((expected * weight).sum(), [x, kernel]),
        rtol=1e-12,
        atol=1e-12,
    )


def test_in_single_precision_rounding_stays_below_1e_6_of_the_largest_output():
    x, kernel = torch.randn(2, 784, 3), torch.randn(3, 784)
    expected = convolution.convolve(x, kernel)
    actual = convolution.convolve(x.float(), kernel.float()).double()
    assert ((actual - expected).abs().max() / expected.abs().max()) < 1e-6


def test_sizes_are_even_and_have_small_factors_only():
    assert [fourier.padded(n) for n in (1, 2, 7, 363, 1567)] == [2, 2, 8, 384, 1600]


def test_what_keeps_for_the_way_back_does_not_grow_with_the_padding():
    x, kernel = torch.randn(2, 40, 3, requires_grad=True), torch.randn(3, 40, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        convolution.convolve(x, kernel)
    assert sum(kept) == x.numel() + kernel.numel()


@pytest.mark.parametrize(("x", "kernel"), [((2, 5, 3), (4, 5)), ((2, 5, 3), (3, 6)), ((5, 3), (3, 5))])
def test_shapes_that_disagree_are_refused(x, kernel):
    with pytest.raises(ValueError, match="must be"):
        convolution.convolve(torch.zeros(x), torch.zeros(kernel))
