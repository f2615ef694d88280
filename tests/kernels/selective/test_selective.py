"""The selective scan, its gradients and its memory, against the loop."""

import pytest
import torch

from hippo.kernels.selective import naive, selective_scan


def inputs(length: int, batch: int = 2, width: int = 3, states: int = 4, dtype=torch.float64) -> list[torch.Tensor]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    step, A = draw(batch, length, width).exp() / 5, -draw(width, states).exp()
    vectors = draw(batch, length, states), draw(batch, length, states)
    drawn = draw(batch, length, width), step, A, *vectors, draw(batch, width, states)
    return [x.requires_grad_() for x in drawn]


@pytest.mark.parametrize("length", [1, 28, 61])
def test_outputs_state_and_gradients_are_those_of_the_loop(length):
    torch.manual_seed(length)
    args = inputs(length)
    results = selective_scan(*args), naive.loop(*args)
    weights = [torch.randn_like(x) for x in results[0]]
    both = [
        (*each, *torch.autograd.grad(sum((x * w).sum() for x, w in zip(each, weights, strict=True)), args))
        for each in results
    ]
    for actual, expected in zip(*both, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_constant_steps_and_vectors_make_a_diagonal_state_space():
    """y = K ∗ u with K_l = Σ_n C_n e^{lΔA_n} Δ B_n for each channel."""
    torch.manual_seed(0)
    u, step, A, B, C, _ = (x.detach() for x in inputs(40))
    step, B, C = (x[:, :1].expand_as(x) for x in (step, B, C))
    times = torch.arange(40, dtype=torch.float64)
    powers = torch.exp(times[:, None, None, None] * step[:, 0, :, None] * A)  # (L, B, D, N)
    kernel = torch.einsum("lbdn,bn,bd,bn->bld", powers, C[:, 0], step[:, 0], B[:, 0])
    expected = torch.stack([(kernel[:, : t + 1].flip(1) * u[:, : t + 1]).sum(1) for t in range(40)], 1)
    torch.testing.assert_close(selective_scan(u, step, A, B, C)[0], expected)


def test_float32_agrees_with_float64(relative_error):
    torch.manual_seed(1)
    args = [x.detach() for x in inputs(61)]
    assert relative_error(selective_scan(*(x.float() for x in args))[0], naive.loop(*args)[0]) < 1e-6


def test_what_is_kept_for_the_backward_pass_is_less_than_half_of_the_states():
    kept = []
    args = inputs(280, width=32, states=16)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        selective_scan(*args)
    assert sum(kept) < 2 * 280 * 32 * 16 / 2  # half of one (B, L, D, N)


def test_shapes_that_do_not_go_together_are_refused():
    args = inputs(5)
    args[3] = args[3][:, :4]
    with pytest.raises(ValueError, match=r"B must be \(2, 5, 4\)"):
        selective_scan(*args)
