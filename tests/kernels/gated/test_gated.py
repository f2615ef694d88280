"""Which implementation of the gated network serves, and that each is the plain equations."""

import pytest
import torch

from hippo import measures
from hippo.kernels import gated as kernels
from hippo.kernels.common import buffers, gpus, native
from hippo.models import HiPPORNN

LEGS = [
    {},
    {"memory_order": 1},
    {"memory_order": 7, "discretization": "euler"},
    {"memory_order": 40},
    {"memory_order": 64, "discretization": 0.3},
    {"memory_order": 1100, "discretization": "backward_euler"},
]
LTI = [
    {"measure": measures.LegT(20.0), "discretization": "zoh"},
    {"measure": measures.LagT(4.0, beta=0.0), "memory_order": 33},
]


def build(memory: dict, dtype: torch.dtype = torch.float64) -> HiPPORNN:
    torch.manual_seed(0)
    return HiPPORNN(3, 9, **memory).to(dtype)


def both(model: HiPPORNN, x: torch.Tensor, timestamps: torch.Tensor | None) -> list[list[torch.Tensor]]:
    """Hidden states (L, B, D), and every gradient, by what serves and step by step."""
    weight = torch.randn(x.shape[1], len(x), 9, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    return [
        [hidden, *torch.autograd.grad((hidden * weight).sum(), [x, *model.parameters()])]
        for hidden in (torch.stack(tuple(f(x, timestamps))) for f in (model.states, model.step_by_step))
    ]


@pytest.fixture
def compiled():
    pytest.importorskip("numba")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("timed", ["regular", "alike", "own"])
@pytest.mark.parametrize("memory", [*LEGS, *LTI], ids=str)
@pytest.mark.parametrize("length", [1, 2, 37])
def test_what_serves_is_the_equations_and_so_is_every_gradient(memory, timed, length):
    x = torch.randn(5, length, 3, dtype=torch.float64, requires_grad=True)
    timestamps = (0.5 * torch.arange(length)).pow(1.3).expand(5, -1) if timed == "alike" else None
    if timed == "own":
        timestamps = torch.rand(5, length, dtype=torch.float64).cumsum(1)
        timestamps[1, 20:] = timestamps[1, 19:20]  # ends there
        timestamps[2, :3] = 0.0  # begins at zero, and stays
        timestamps[3, 5:8] = timestamps[3, 7:8]
    if timed == "own" and memory in LTI and length > 2:
        length, x, timestamps = 12, x.detach()[:, :12].requires_grad_(), timestamps[:, :12]  # no kernel's business
    model = build(memory)
    for whole, reference in zip(*both(model, x, timestamps), strict=True):
        assert (whole - reference).abs().max() <= 1e-10 * reference.abs().max()
    assert model.route == ("cpu" if memory in LEGS else "cell" if timed == "regular" else "naive")


@pytest.mark.usefixtures("compiled")
def test_in_single_precision_it_is_as_good_as_the_equations():
    x = torch.randn(8, 300, 3, requires_grad=True)
    exact = both(build({"memory_order": 64}), x.double().detach().requires_grad_(), None)[1]
    whole, reference = both(build({"memory_order": 64}, torch.float32), x, None)
    for one, other, truth in zip(whole, reference, exact, strict=True):
        scale = truth.abs().max()
        assert (one - truth).abs().max() <= 1e-6 * scale + 3 * (other - truth).abs().max()


@pytest.mark.parametrize("memory", [{"memory_order": 5}, LTI[0]], ids=str)
@pytest.mark.parametrize("fast", [True, False])
def test_gradients_are_those_of_finite_differences(memory, fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(kernels, "choose", lambda *_: "naive")
    model = build(memory)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]

    def features(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(features, (x, *model.parameters()))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("memory", LEGS[:3], ids=str)
def test_without_gradients_it_keeps_nothing_and_gives_the_same(memory, monkeypatch):
    model, x = build(memory), torch.randn(5, 37, 3, dtype=torch.float64)
    with torch.no_grad():
        alone = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), alone)
    assert torch.equal(model(x), alone)
    sizes = []
    empty = buffers.empty
    monkeypatch.setattr(buffers, "empty", lambda size, like: sizes.append(size) or empty(size, like))
    with torch.no_grad():
        model(x)
    model(x)
    gates, states = 5 * 2 * 9, 38 * 5 * 9
    assert sizes[1:3] == [2 * gates, states]
    assert sizes[4:] == [37 * gates, states]
    assert sizes[0] * 37 == sizes[3] * 2


@pytest.mark.usefixtures("compiled")
def test_gradients_of_gradients_are_refused_not_left_out_and_the_equations_have_them():
    model, x = build({}), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="step_by_step has all"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (first,) = torch.autograd.grad(model.step_by_step(x, None)[-1].sum(), x, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), x)[0].abs().max() > 0


def test_the_choice(monkeypatch):
    """One function says which implementation serves, from what it would be called with."""
    like = torch.zeros(4, 2, 1)
    inputs = like, torch.zeros(6, 6), torch.zeros(6), torch.zeros(4, 2), torch.zeros(3)
    legs = build({"memory_order": 5}).memory.kernel_steps(4, None, torch.zeros(2, 4, 1))
    lti = build(LTI[0]).memory.kernel_steps(4, None, torch.zeros(2, 4, 1))
    served = native.compiled()
    assert kernels.choose(inputs, None) == "naive"
    assert kernels.choose(inputs, legs) == ("cpu" if served else "naive")
    assert kernels.choose(inputs, lti) == ("cell" if served else "naive")
    half = [v.bfloat16() for v in inputs]
    assert kernels.choose(half, legs) == kernels.choose(half, lti) == "naive"
    monkeypatch.setattr(native, "numba", lambda: None)
    assert kernels.choose(inputs, legs) == kernels.choose(inputs, lti) == "naive"
    monkeypatch.setattr(gpus, "serves", lambda *_: True)
    assert kernels.choose(inputs, legs) == kernels.choose(inputs, lti) == "gpu"
    assert kernels.choose(inputs, None) == "naive"


def test_the_route_is_known_of_a_model_and_goes_with_it():
    model = build({})
    assert model.route is None
    model.step_by_step(torch.zeros(1, 2, 3, dtype=torch.float64), None)
    assert model.route is None
    model(torch.zeros(1, 2, 3, dtype=torch.float64))
    assert model.route == kernels.route(model) != build({}).route
    model(torch.zeros(1, 2, 3, dtype=torch.float64), torch.tensor([[0.0, 1.0]]))
    before = len(kernels._routes)
    del model
    assert len(kernels._routes) == before - 1
