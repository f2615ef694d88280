"""Recurrences with a step for each sample: the compiled loops against tensor operations."""

import pytest
import torch

from hippo.kernels import compiled, stepwise
from hippo.kernels.stepwise import naive

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.skipif(not compiled(), reason="numba is missing: there is one form only"),
]


def a_problem(rank, batch=3, length=10, features=4, size=5, steps=3):
    def draw(*shape):
        return (0.4 * torch.randn(*shape, dtype=torch.complex128)).requires_grad_()

    which = torch.randint(steps, (batch, length))
    x, state = torch.randn(batch, length, features, requires_grad=True), draw(batch, features, size)
    R, E, K = draw(steps, features, size), draw(steps, features, size), draw(steps, features, rank, size)
    return x, state, which, R, E, K, draw(rank, size), draw(features, size)


@pytest.mark.parametrize("less", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_and_gradients_are_those_of_tensor_operations(rank, less, threads):
    problem = a_problem(rank)
    weights = torch.randn(3, 10, 4), torch.randn(3, 4, 5, dtype=torch.complex128)
    leaves = [part for k, part in enumerate(problem) if k != 2 and part.numel()]
    results = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for form in (stepwise, naive):
            y, after = form.run(*problem, less)
            loss = (y * weights[0]).sum() + (after * weights[1]).sum().real
            results.append((y, after, torch.autograd.grad(loss, leaves)))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_no_state_between_the_first_and_the_last_is_kept():
    problem = a_problem(1, length=50)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        stepwise.run(*problem, True)
    assert max(kept) < 3 * 50 * 4 * 5
