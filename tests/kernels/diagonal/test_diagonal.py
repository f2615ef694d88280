"""The diagonal recurrence in chunks against its loop."""

import pytest
import torch

from hippo.kernels import diagonal
from hippo.kernels.diagonal import naive

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("length", [1, 2, 9, 50])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_states_and_gradients_are_those_of_the_loop(length, varies, dtype):
    a = torch.randn(3, length, 4, dtype=dtype) if varies else torch.randn(4, dtype=dtype)
    a = (a / a.abs() * 0.95).requires_grad_()
    b = torch.randn(3, length, 4, dtype=dtype, requires_grad=True)
    state = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, length, 4, dtype=dtype)
    actual, expected = (form.scan(a, b, state) for form in (diagonal, naive))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    losses = [(states * weight).sum().real for states in (actual, expected)]
    torch.testing.assert_close(*(torch.autograd.grad(loss, [a, b, state]) for loss in losses), rtol=1e-11, atol=1e-11)


def test_a_factor_of_zero_forgets_and_gradients_stay_finite():
    a = torch.tensor([0.0, 0.5], requires_grad=True)
    b = torch.randn(1, 10, 2)
    states = diagonal.scan(a, b, torch.ones(1, 2))
    torch.testing.assert_close(states[..., 0], b[..., 0])
    assert torch.autograd.grad(states.sum(), a)[0].isfinite().all()


def test_only_states_and_factors_are_kept_for_the_way_back():
    a, b, state = torch.rand(4, requires_grad=True), torch.randn(3, 20, 4, requires_grad=True), torch.zeros(3, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        diagonal.scan(a, b, state)
    assert sum(kept) == a.numel() + b.numel() + state.numel()


def test_shapes_and_dtypes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="must be"):
        diagonal.scan(torch.zeros(3), torch.zeros(2, 5, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="one dtype"):
        diagonal.scan(torch.zeros(4), torch.zeros(2, 5, 4, dtype=torch.float32), torch.zeros(2, 4))
