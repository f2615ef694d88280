"""The selective scan, its gradients and its memory, against the loop."""

import pytest
import torch

from hippo.kernels.common import native
from hippo.kernels.selective import naive, recomputed, selective_scan

compiled = pytest.mark.skipif(not native.compiled(), reason="numba is not installed")
if native.compiled():
    from hippo.kernels.selective import cpu
FORMS = [
    pytest.param(cpu.scan if native.compiled() else None, marks=compiled, id="cpu"),
    pytest.param(recomputed.SelectiveScan.apply, id="recomputed"),
]


def inputs(length: int, batch: int = 2, width: int = 3, states: int = 4, dtype=torch.float64) -> list[torch.Tensor]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    step, A = draw(batch, length, width).exp() / 5, -draw(width, states).exp()
    vectors = draw(batch, length, states), draw(batch, length, states)
    drawn = draw(batch, length, width), step, A, *vectors, draw(batch, width, states)
    return [x.requires_grad_() for x in drawn]


@pytest.mark.parametrize("length", [1, 28, 61])
@pytest.mark.parametrize("scan", FORMS)
def test_outputs_state_and_gradients_are_those_of_the_loop(scan, length):
    torch.manual_seed(length)
    args = inputs(length, width=19)
    results = scan(*args), naive.loop(*args)
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


@pytest.mark.parametrize("scan", FORMS)
def test_float32_agrees_with_float64(scan, relative_error):
    torch.manual_seed(1)
    args = inputs(61)
    narrow = [x.detach().float().requires_grad_() for x in args]
    (y, _), (expected, _) = scan(*narrow), naive.loop(*args)
    assert relative_error(y, expected) < 1e-6
    weights = torch.randn_like(expected)
    gradients = zip(
        torch.autograd.grad(y, narrow, weights.float()), torch.autograd.grad(expected, args, weights), strict=True
    )
    assert all(relative_error(actual, wanted) < 3e-6 for actual, wanted in gradients)


@compiled
def test_threads_share_the_batch(monkeypatch):
    torch.manual_seed(2)
    args = inputs(30, batch=5)
    expected = scan_and_gradients(args)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for actual, wanted in zip(scan_and_gradients(args), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def scan_and_gradients(args: list[torch.Tensor]) -> list[torch.Tensor]:
    y, state = cpu.scan(*args)
    return [y, state, *torch.autograd.grad(y.square().sum() + state.sum(), args)]


def test_under_autocast_states_are_as_wide_as_the_weights():
    torch.manual_seed(3)
    u, step, A, B, C, _ = (x.detach().float() for x in inputs(30))
    u, B, C = (x.bfloat16() for x in (u, B, C))
    y, state = selective_scan(u, step, A, B, C)
    assert y.dtype == state.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan(u.float(), step, A, B.float(), C.float())[0])


@pytest.mark.parametrize("scan", FORMS)
def test_what_is_kept_for_the_backward_pass_is_less_than_half_of_the_states(scan):
    kept = []
    args = inputs(280, width=32, states=16)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        scan(*args)
    assert sum(kept) < 2 * 280 * 32 * 16 / 2  # half of one (B, L, D, N)


def test_shapes_that_do_not_go_together_are_refused():
    args = inputs(5)
    args[3] = args[3][:, :4]
    with pytest.raises(ValueError, match=r"B must be \(2, 5, 4\)"):
        selective_scan(*args)
