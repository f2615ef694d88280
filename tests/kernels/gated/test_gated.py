"""The whole-sequence network against the loop that it replaces."""

import pytest
import torch

from hippo import measures
from hippo.kernels.common import buffers as room
from hippo.kernels.common import compile as jit
from hippo.kernels.gated import cpu as loop
from hippo.models import HiPPORNN

MEMORIES = [
    {},
    {"memory_order": 1},
    {"memory_order": 7, "discretization": "euler"},
    {"memory_order": 40},  # not a whole number of blocks
    {"memory_order": 64, "discretization": 0.3},
    {"memory_order": 1100, "discretization": "backward_euler"},  # more blocks than a block has rows
    {"measure": measures.LegT(20.0), "discretization": "zoh"},
    {"measure": measures.LagT(4.0, beta=0.0), "memory_order": 33},
]


def build(memory: dict, dtype: torch.dtype = torch.float64) -> HiPPORNN:
    torch.manual_seed(0)
    return HiPPORNN(3, 9, **memory).to(dtype)


def both(model: HiPPORNN, x: torch.Tensor, timestamps: torch.Tensor | None) -> list[list[torch.Tensor]]:
    """Hidden states (L, B, D), and every gradient, from the whole sequence at once and step by step."""
    weight = torch.randn(x.shape[1], len(x), 9, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    assert model.memory.operators(x.shape[1], timestamps, like=x) is not None
    return [
        [hidden, *torch.autograd.grad((hidden * weight).sum(), [x, *model.parameters()])]
        for hidden in map(torch.stack, (model.unroll(x, timestamps, None), model.step_by_step(x, timestamps)))
    ]


@pytest.fixture(params=["loop", "sweeps", "products"])
def kernel(request, monkeypatch):
    if request.param == "products":
        monkeypatch.setattr(jit, "serves", lambda tensor: False)
    else:
        pytest.importorskip("numba")
    if request.param == "sweeps":
        monkeypatch.setattr(loop, "serves", lambda *_: False)
    return request.param


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("memory", MEMORIES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 37])
def test_it_is_the_loop_and_so_is_every_gradient(memory, timed, length, kernel):
    x = torch.randn(5, length, 3, dtype=torch.float64, requires_grad=True)
    timestamps = (0.5 * torch.arange(length)).pow(1.3).expand(5, -1) if timed else None
    for whole, reference in zip(*both(build(memory), x, timestamps), strict=True):
        assert (whole - reference).abs().max() <= 1e-10 * reference.abs().max()


def test_in_single_precision_it_is_as_good_as_the_loop(kernel):
    x = torch.randn(8, 300, 3, requires_grad=True)
    exact = both(build({"memory_order": 64}), x.double().detach().requires_grad_(), None)[1]
    whole, reference = both(build({"memory_order": 64}, torch.float32), x, None)
    for one, other, truth in zip(whole, reference, exact, strict=True):
        scale = truth.abs().max()
        assert (one - truth).abs().max() <= 1e-6 * scale + 3 * (other - truth).abs().max()


def test_its_gradients_are_those_of_finite_differences(kernel):
    model = build({"memory_order": 5})
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def features(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(features, (x, *model.parameters()))


@pytest.mark.parametrize("memory", MEMORIES[:3], ids=str)
def test_without_gradients_it_keeps_nothing_and_gives_the_same(memory, kernel, monkeypatch):
    model, x = build(memory), torch.randn(5, 37, 3, dtype=torch.float64)
    with torch.no_grad():
        alone = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), alone)
    assert torch.equal(model(x), alone)
    sizes = []
    empty = room.empty
    monkeypatch.setattr(room, "empty", lambda size, like: sizes.append(size) or empty(size, like))
    with torch.no_grad():
        model(x)
    model(x)
    gates, states = 5 * 2 * 9, 38 * 5 * 9
    assert sizes[1:3] == [2 * gates, states]
    assert sizes[4:] == [37 * gates, states]
    assert sizes[0] * 37 == sizes[3] * 2


def test_gradients_of_gradients_are_refused_not_left_out(kernel):
    model, x = build({}), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="first order only"):
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)


@pytest.mark.parametrize("memory", MEMORIES[:6], ids=str)
def test_compiled_samples_may_have_times_of_their_own_and_stand_still(memory):
    pytest.importorskip("numba")
    x = torch.randn(5, 37, 3, dtype=torch.float64, requires_grad=True)
    own = torch.rand(5, 37, dtype=torch.float64).cumsum(1)
    own[1, 20:] = own[1, 19]  # ends there
    own[2, :3] = 0.0  # begins at zero, and stays
    own[3, 5] = own[3, 6] = own[3, 7]
    for whole, reference in zip(*both(build(memory), x, own), strict=True):
        assert (whole - reference).abs().max() <= 1e-10 * reference.abs().max()


def test_products_serve_no_samples_with_times_of_their_own(monkeypatch):
    monkeypatch.setattr(jit, "serves", lambda tensor: False)
    model, x = build({}), torch.randn(5, 12, 3, dtype=torch.float64)
    own = torch.rand(5, 12, dtype=torch.float64).cumsum(1)
    assert model.memory.operators(12, own, like=x) is None
    torch.testing.assert_close(
        model(x, own)[2], torch.stack(model.step_by_step(x[2:3], own[2:3]))[-1, 0], atol=1e-12, rtol=0
    )


def test_too_many_matrices_are_not_kept():
    memory = HiPPORNN(3, 9, measure=measures.LegT(20.0), discretization="zoh").memory
    times = torch.arange(100.0).pow(1.5).expand(2, -1)
    assert memory.operators(100, times, like=times) is None
    assert HiPPORNN(3, 9, discretization="zoh").memory.operators(10, None, like=times) is None
