"""Every form of the matrix-state recurrences is the loop."""

import pytest
import torch
from torch.nn import functional as F

from hippo.kernels import matrix_state
from hippo.kernels.matrix_state import naive

B, L, H, N, P = 2, 37, 4, 5, 3


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def decays(*shape: int) -> torch.Tensor:
    return (-2 * torch.rand(*shape, dtype=torch.float64)).requires_grad_()


def assert_same(actual, expected, inputs) -> None:
    """Compare outputs, and gradients of a random combination of them."""
    weights = [torch.randn_like(x) for x in expected]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(each, weights, strict=True)), inputs)
        for each in (actual, expected)
    ]
    for x, y in zip((*actual, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_scalar_decay_is_the_loop_for_any_chunk_and_sharing(groups, chunk):
    torch.manual_seed(0)
    inputs = q, k, v, g, S = (
        draw(B, L, groups, N),
        draw(B, L, groups, N),
        draw(B, L, H, P),
        decays(B, L, H),
        draw(B, H, N, P),
    )
    spread = [x.repeat_interleave(H // groups, 2) for x in (q, k)]
    assert_same(matrix_state.decayed(*inputs, chunk), naive.decayed_loop(*spread, v, g, S), inputs)


@pytest.mark.parametrize("steep", [0.1, 20.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_channel_decay_is_the_loop_for_any_chunk_and_decay(chunk, steep):
    torch.manual_seed(1)
    g = (steep * decays(B, L, H, N)).detach().requires_grad_()
    inputs = draw(B, L, H, N), draw(B, L, H, N), draw(B, L, H, P), g, draw(B, H, N, P)
    assert_same(matrix_state.decayed(*inputs, chunk), naive.decayed_loop(*inputs), inputs)


@pytest.mark.parametrize("shape", [(B, L, H), (B, L, H, N)])
def test_the_masked_quadratic_form_is_the_loop(shape):
    torch.manual_seed(2)
    q, k, v, g = draw(B, L, H, N), draw(B, L, H, N), draw(B, L, H, P), decays(*shape)
    zero = torch.zeros(B, H, N, P, dtype=torch.float64)
    torch.testing.assert_close(naive.decayed_quadratic(q, k, v, g), naive.decayed_loop(q, k, v, g, zero)[0])


def delta_inputs(steep: float = 1.0) -> list[torch.Tensor]:
    read = F.normalize(torch.randn(B, L, H, N, dtype=torch.float64), dim=-1)
    write = -read * torch.rand(B, L, H, N, dtype=torch.float64)
    S = draw(B, H, N, P)
    return [
        draw(B, L, H, N),
        draw(B, L, H, N),
        draw(B, L, H, P),
        (steep * decays(B, L, H, N)).detach().requires_grad_(),
        read.requires_grad_(),
        write.requires_grad_(),
        S,
    ]


@pytest.mark.parametrize("steep", [0.1, 20.0])
@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_the_delta_rule_is_the_loop_for_any_chunk_and_decay(chunk, steep):
    torch.manual_seed(3)
    inputs = delta_inputs(steep)
    assert_same(matrix_state.delta_rule(*inputs, chunk), naive.delta_loop(*inputs), inputs)


def test_a_delta_rule_that_writes_nothing_is_linear_attention_with_decay():
    torch.manual_seed(4)
    q, k, v, g, read, write, S = delta_inputs()
    actual = matrix_state.delta_rule(q, k, v, g, read, 0 * write, S)
    assert_same(actual, matrix_state.decayed(q, k, v, g, S), [q, k, v, g, S])


def test_a_delta_rule_without_decay_is_deltanet():
    """S ← S + k̂ (β (v − Sᵀ k̂))ᵀ."""
    torch.manual_seed(5)
    q, _, v, g, key, _, S = delta_inputs()
    beta = torch.rand(B, L, H, 1, dtype=torch.float64)
    actual, _ = matrix_state.delta_rule(q, beta * key, v, 0 * g, key, -beta * key, S)
    for t in range(L):
        error = v[:, t] - torch.einsum("bhnp,bhn->bhp", S, key[:, t])
        S = S + key[:, t].unsqueeze(-1) * (beta[:, t] * error).unsqueeze(-2)
        torch.testing.assert_close(actual[:, t], torch.einsum("bhnp,bhn->bhp", S, q[:, t]))


def test_decays_that_forget_everything_and_long_steep_ones_stay_finite():
    """e^{−1000} over a chunk: a quotient of cumulative products would be 0/0."""
    torch.manual_seed(6)
    q, k, v = (torch.randn(1, 48, 1, 4, requires_grad=True) for _ in range(3))
    for g in (torch.full((1, 48, 1), -40.0), torch.full((1, 48, 1, 4), -40.0), torch.full((1, 48, 1, 4), -torch.inf)):
        o, _ = matrix_state.decayed(q, k, v, g)
        torch.testing.assert_close(o, (q * k).sum(-1, keepdim=True) * v)
        assert all(x.isfinite().all() for x in torch.autograd.grad(o.sum(), [q, k, v]))


@pytest.mark.parametrize("steep", [0.5, 20.0])
def test_float32_agrees_with_float64(relative_error, steep):
    torch.manual_seed(7)
    wide = [x.detach() for x in delta_inputs(steep)]
    expected, _ = naive.delta_loop(*wide)
    assert relative_error(matrix_state.delta_rule(*(x.float() for x in wide))[0], expected) < 2e-6


def test_shapes_that_do_not_go_together_are_refused():
    q, v = torch.zeros(2, 3, 2, 4), torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match="log_decay must be"):
        matrix_state.decayed(q, q, v, torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match="do not go with"):
        matrix_state.decayed(q, q, v[:, :2], torch.zeros(2, 2, 4))
    with pytest.raises(ValueError, match="power of 2"):
        matrix_state.decayed(q, q, v[:, :, :2], torch.zeros(2, 3, 2, 4), chunk=12)
    with pytest.raises(ValueError, match="read must be"):
        matrix_state.delta_rule(q, q, v[:, :, :2], q, q[:, :1], q)
