"""Mamba, Mamba-2, RetNet and RWKV-7: one map, however the sequence comes; what makes each of them what it is."""

import pytest
import torch
from torch.nn import functional as F

from hippo.kernels.matrix_state import delta_rule, naive
from hippo.mixers import RWKV7, Mamba, Mamba2, RetNet, by_steps
from hippo.models import Stack

LAYERS = {
    "mamba": lambda features: Mamba(features, state_size=3),
    "mamba2": lambda features: Mamba2(features, state_size=3, head_size=4, groups=2, chunk=5),
    "retnet": lambda features: RetNet(features, heads=2, chunk=5),
    "rwkv7": lambda features: RWKV7(features, head_size=4, rank=3, chunk=4),
}
B, L, H = 3, 17, 8


@pytest.fixture(params=LAYERS, autouse=False)
def layer(request):
    """A layer in float64 whose parameters have left their initial values: some start at 0."""
    torch.manual_seed(0)
    layer = LAYERS[request.param](H).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return layer


@pytest.mark.parametrize("rate", ["1", "2", "gaps"])
def test_the_whole_is_two_halves_and_is_the_steps(layer, rate):
    x = torch.randn(B, L, H, dtype=torch.float64)
    rate = 2 * torch.rand(B, L, dtype=torch.float64) if rate == "gaps" else float(rate)
    first, second = (rate[:, :9], rate[:, 9:]) if isinstance(rate, torch.Tensor) else (rate, rate)
    y, state = layer(x, rate=rate)
    assert y.shape == x.shape
    early, between = layer(x[:, :9], rate=first)
    late, end = layer(x[:, 9:], between, second)
    torch.testing.assert_close(torch.cat([early, late], 1), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, state, rtol=1e-10, atol=1e-10)
    steps, end = by_steps(layer, x, None, rate)
    torch.testing.assert_close(steps, y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, state, rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_steps(layer):
    x, rate = torch.randn(B, L, H, dtype=torch.float64).requires_grad_(), torch.rand(B, L, dtype=torch.float64)
    weights, wanted = torch.randn(B, L, H, dtype=torch.float64), [x, *layer.parameters()]
    whole, steps = layer(x, rate=rate)[0], by_steps(layer, x, None, rate)[0]
    actual, expected = (torch.autograd.grad((y * weights).sum(), wanted) for y in (whole, steps))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_a_large_batch_in_groups_is_the_batch(layer, monkeypatch):
    x, rate = torch.randn(5, L, H, dtype=torch.float64), torch.rand(5, L, dtype=torch.float64)
    state = layer(torch.randn(5, 3, H, dtype=torch.float64))[1]
    calls, advance = [], layer.advance
    layer.advance = lambda *inputs: calls.append(len(inputs[0])) or advance(*inputs)
    expected = layer(x, state, rate), layer(x)
    monkeypatch.setattr("hippo.mixers.gated._LARGEST", 2 * L * layer.width * 8)
    torch.testing.assert_close((layer(x, state, rate), layer(x)), expected, rtol=1e-12, atol=1e-12)
    assert calls == [5, 5, 2, 2, 1, 2, 2, 1]


def test_one_rate_for_all_is_that_rate_for_each(layer):
    x = torch.randn(B, L, H, dtype=torch.float64)
    torch.testing.assert_close(layer(x, rate=2.0)[0], layer(x, rate=torch.full((B, L), 2.0, dtype=torch.float64))[0])
    assert (layer(x, rate=2.0)[0] - layer(x)[0]).abs().max() > 1e-4


def test_every_parameter_learns(layer):
    layer(torch.randn(B, L, H, dtype=torch.float64))[0].square().sum().backward()
    assert {name for name, weight in layer.named_parameters() if weight.grad is None or not weight.grad.any()} == set()


def test_names_of_the_dynamics_are_parameters(layer):
    assert set(layer.dynamics) <= {name for name, _ in layer.named_parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_a_stack_does_not_look_at_batch_mates_or_padding(name):
    torch.manual_seed(1)
    stack = Stack(2, H, LAYERS[name], depth=2).double().eval()
    with torch.no_grad():
        for weight in stack.parameters():
            weight += 0.1 * torch.randn_like(weight)
    x, lengths = torch.randn(3, 12, 2, dtype=torch.float64), torch.tensor([12, 7, 9])
    times = torch.rand(3, 12, dtype=torch.float64).cumsum(1)
    together = stack(x, times, lengths=lengths)
    for k, length in enumerate(lengths):
        alone = stack(x[k : k + 1, :length], times[k : k + 1, :length])
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-10, atol=1e-10)
    padded = x.masked_fill(torch.arange(12)[:, None] >= lengths[:, None, None], 1e3)
    torch.testing.assert_close(stack(padded, times, lengths=lengths), together)


def test_mamba_with_nothing_to_select_is_a_diagonal_state_space():
    """With Δ, B and C constant, y is the input's convolution with Σ_n C_n e^{lΔA_n} Δ B_n, plus D u."""
    torch.manual_seed(2)
    layer = Mamba(H, state_size=3, window=1).double()
    rank, states = layer.delta_rank, layer.state_size
    constants = torch.randn(2 * states, dtype=torch.float64)
    chosen = torch.cat([torch.zeros(rank, dtype=torch.float64), constants])
    layer.select.register_forward_hook(lambda _, inputs, output: chosen.expand_as(output))
    captured = []
    layer.leave.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    x = torch.randn(1, L, H, dtype=torch.float64)
    layer(x)
    u, z = layer.enter(x).chunk(2, -1)
    u = F.silu(u * layer.convolution.weight[:, 0] + layer.convolution.bias)
    step, A = F.softplus(layer.to_step.bias), -layer.A_log.exp()
    B, C = constants.split(states)
    times = torch.arange(L, dtype=torch.float64)
    kernel = (torch.exp(times[:, None, None] * step[:, None] * A) * (C * B)).sum(-1) * step  # (L, E)
    y = torch.stack([(kernel[: t + 1].flip(0) * u[0, : t + 1]).sum(0) for t in range(L)])
    torch.testing.assert_close(captured[0][0], (y + layer.D * u[0]) * F.silu(z[0]), rtol=1e-10, atol=1e-10)


def test_mamba_told_a_rate_sees_the_same_signal_and_the_error_shrinks_with_the_step():
    """Slow inputs, sampled finely and at every second sample, with Δ twice as long. The convolution's window of one
    sample has no length in time."""
    torch.manual_seed(3)
    layer = Mamba(H, window=1).double()
    phase = torch.rand(H, dtype=torch.float64) * 6
    errors = []
    for samples in (64, 128, 256):
        time = torch.arange(1, samples + 1, dtype=torch.float64)[:, None] / samples
        x = torch.sin(3 * time + phase)[None]
        fine, coarse = layer(x, rate=64 / samples)[0], layer(x[:, 1::2], rate=128 / samples)[0]
        errors.append((fine[:, -1] - coarse[:, -1]).abs().max().item())
    assert errors[0] > 1.8 * errors[1] > 1.8**2 * errors[2]


def test_mamba2_is_masked_attention():
    torch.manual_seed(4)
    layer = LAYERS["mamba2"](H).double()
    captured = []
    layer.leave.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    x = torch.randn(B, L, H, dtype=torch.float64)
    layer(x)
    z, u, delta = layer.enter(x).split(layer.sizes, -1)
    u = F.silu(layer.convolution(u, layer.convolution.initial_state(B, x))[0])
    u, k, q = u.split([layer.sizes[0], 6, 6], -1)
    u, k, q = u.unflatten(-1, (-1, 4)), *(v.unflatten(-1, (2, 3)).repeat_interleave(2, 2) for v in (k, q))
    delta = F.softplus(delta + layer.delta_bias)
    y = naive.decayed_quadratic(q, k, delta.unsqueeze(-1) * u, -layer.A_log.exp() * delta) + layer.D[:, None] * u
    torch.testing.assert_close(captured[0], layer.norm(y.flatten(-2) * F.silu(z)), rtol=1e-10, atol=1e-10)


def test_retention_in_parallel_is_retention_in_chunks():
    torch.manual_seed(5)
    layer = LAYERS["retnet"](H).double()
    x = torch.randn(B, L, H, dtype=torch.float64)
    q, k, v, log_decay, _ = layer.retention(x, torch.zeros(B, dtype=torch.float64), 1.0)
    o = naive.decayed_quadratic(q, k, v, log_decay.expand(B, -1, -1))
    expected = layer.leave(F.silu(layer.gate(x)) * F.rms_norm(o, (8,), eps=1e-6).flatten(-2))
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-10)


def test_retention_looks_at_how_long_ago_not_at_when():
    torch.manual_seed(6)
    layer = LAYERS["retnet"](H).double()
    x = torch.randn(B, L, H, dtype=torch.float64)
    S, now = layer.initial_state(B, x)
    torch.testing.assert_close(layer(x, (S, now + 1000))[0], layer(x)[0], rtol=1e-9, atol=1e-9)


def test_rwkv7_with_a_at_0_is_linear_attention_with_decay():
    torch.manual_seed(7)
    layer = LAYERS["rwkv7"](H).double()
    with torch.no_grad():
        layer.a0.fill_(-torch.inf)  # a = 0
        layer.k_a.zero_()
        layer.leave.weight.normal_()
    x = torch.randn(B, L, H, dtype=torch.float64)
    rule, gate = layer.rule(x, torch.zeros(B, H, dtype=torch.float64), 1.0)
    torch.testing.assert_close(rule.k.flatten(-2), layer.key(x + layer.shares[2] * (F.pad(x, (0, 0, 1, -1)) - x)))
    o = naive.decayed_quadratic(rule.q, rule.k, rule.v, rule.log_decay)
    o = layer.norm(o.reshape(-1, H)).view(B, L, H)
    o = o + ((rule.q * rule.k * layer.r_k).sum(-1, keepdim=True) * rule.v).flatten(-2)
    torch.testing.assert_close(layer(x)[0], layer.leave(o * gate), rtol=1e-10, atol=1e-10)


def test_rwkv7_is_deltanet_where_nothing_decays():
    """k_k = k_a = 1 and unit keys k̂: what is written is a k̂ v and what is rewritten −a k̂, DeltaNet with β = a."""
    torch.manual_seed(8)
    layer = LAYERS["rwkv7"](H).double()
    with torch.no_grad():
        layer.a0.fill_(0.3)
        layer.k_k.fill_(1)
        layer.k_a.fill_(1)
    x = torch.randn(B, L, H, dtype=torch.float64)
    rule, _ = layer.rule(x, torch.zeros(B, H, dtype=torch.float64), 1e-300)  # w = 1
    keys = rule.k.norm(dim=-1, keepdim=True)
    beta = torch.sigmoid(torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(rule.write, -beta * rule.read)
    torch.testing.assert_close(rule.k, keys * rule.read)
    rule = rule._replace(k=rule.k / keys * beta)
    o, _ = delta_rule(*rule)
    S = x.new_zeros(B, 2, 4, 4)
    for t in range(L):
        error = rule.v[:, t] - torch.einsum("bhnp,bhn->bhp", S, rule.read[:, t])
        S = S + beta * rule.read[:, t].unsqueeze(-1) * error.unsqueeze(-2)
        torch.testing.assert_close(o[:, t], torch.einsum("bhnp,bhn->bhp", S, rule.q[:, t]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mamba(8, state_size=0), "state_size must be at least 1"),
        (lambda: Mamba(8, steps=(0.1, 0.01)), "shortest ≤ longest"),
        (lambda: Mamba2(8, head_size=5), "whole heads of head_size=5"),
        (lambda: RetNet(6, heads=2), "multiple of 2 heads"),
        (lambda: RWKV7(8, head_size=3), "whole heads of head_size=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
