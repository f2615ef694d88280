"""The gated network around a HiPPO memory."""

import math

import pytest
import torch
from torch import nn

from hippo import discretize
from hippo.measures import LMU, ChebT, FouT, LagT, LegT, Rand
from hippo.models import HiPPORNN

pytestmark = pytest.mark.usefixtures("float64")


def a_batch(timed, size=4, length=9, channels=3):
    x = torch.randn(size, length, channels)
    return x, torch.cumsum(torch.rand(size, length) + 0.05, dim=1) if timed else None


@pytest.mark.parametrize("times", [[0.0, 2.0, 1.0], [-1.0, 0.0, 1.0], [0.0, math.nan, 1.0], [0.0, 1.0, math.inf]])
def test_timestamps_that_are_no_times_are_refused(times):
    with pytest.raises(ValueError, match="timestamps"):
        HiPPORNN(1, 4)(torch.zeros(1, 3, 1), torch.tensor([times]))


def test_the_paper_sized_network_has_the_published_number_of_parameters():
    network = nn.Sequential(HiPPORNN(1, 512), nn.Linear(512, 10))
    assert sum(p.numel() for p in network.parameters()) == 531_980


def test_the_memory_order_is_the_hidden_size_unless_given():
    assert HiPPORNN(1, 12).memory.order == 12
    assert HiPPORNN(1, 12, memory_order=5).memory.order == 5
    assert HiPPORNN(1, 12, memory_order=5)(torch.zeros(2, 3, 1)).shape == (2, 12)


def literal_network(model, x, times, alpha=0.5):
    """The four equations step by step, as they are printed, around a dense memory."""
    measure, order = model.memory.measure, model.memory.order
    A, B = measure.dynamics(order)
    size, length, _ = x.shape
    timed = times is not None
    if times is None:
        times = (torch.arange(float(length)) + (0.0 if measure.scale_invariant else 1.0)).expand(size, -1)
    hidden = []
    for b in range(size):
        h, c, before = torch.zeros(model.hidden_size), torch.zeros(order), 0.0
        for k in range(length):
            t = times[b, k].item()
            u = model.write.weight @ torch.cat([x[b, k], h]) + model.write.bias
            if k == 0 and measure.scale_invariant:
                c = torch.cat([u, torch.zeros(order - 1)])
            elif k == 0 and timed:
                c = u * -(torch.linalg.pinv(A) @ B)
            elif t > before:
                A_bar, B_bar = discretize.gbt(A, B, (t - before) / (t if measure.scale_invariant else 1), alpha)
                c = A_bar @ c + B_bar * u
            read = torch.cat([x[b, k], c])
            g = torch.sigmoid(model.gate.weight @ read + model.gate.bias)
            h = (1 - g) * h + g * torch.tanh(model.candidate.weight @ read + model.candidate.bias)
            before = t
        hidden.append(h)
    return torch.stack(hidden)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("measure", ["legs", LegT(6.0), ChebT(6.0), FouT(6.0), LagT(2.0), LMU(6.0), Rand(6.0)], ids=str)
@pytest.mark.parametrize(("order", "hidden"), [(4, 4), (40, 5), (1, 3)])
def test_the_network_is_its_four_equations_and_so_are_all_its_gradients(order, hidden, measure, timed, relative_error):
    model, (x, times) = HiPPORNN(2, hidden, order, measure), a_batch(timed, size=3, length=12, channels=2)
    if times is not None:
        times[0, :2], times[1, 6:] = 0.0, times[1, 6]
    x.requires_grad_()
    upstream = torch.randn(3, hidden)
    fast, literal = model(x, times), literal_network(model, x, times)
    assert relative_error(fast, literal) < 1e-10
    inputs = [x, *model.parameters()]
    names = ["x", *(name for name, _ in model.named_parameters())]
    pairs = zip(*(torch.autograd.grad(out, inputs, upstream) for out in (fast, literal)), strict=True)
    for name, (actual, expected) in zip(names, pairs, strict=True):
        assert relative_error(actual, expected) < 1e-10, name


def test_the_weights_are_drawn_as_published():
    """Each bound is five standard errors of the estimate or more; the weights' mean is 0."""
    inputs, hidden, order = 100, 200, 300
    model = HiPPORNN(inputs, hidden, order)
    for_x, for_c = model.candidate.weight.split([inputs, order], dim=1)
    expected = [
        (for_x, math.sqrt(2 / (inputs + hidden))),  # Xavier, each block with its own fan
        (for_c, math.sqrt(2 / (order + hidden))),
        (model.gate.weight, math.sqrt(1 / (inputs + order))),  # Kaiming normal, linear gain
        (model.write.weight, math.sqrt(1 / (inputs + hidden))),  # Kaiming uniform, linear gain
    ]
    for weight, std in expected:
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel())
    bound = math.sqrt(3 / (inputs + hidden))
    assert 0.95 * bound < model.write.weight.abs().max() <= bound
    for weight in (for_x, for_c, model.gate.weight):
        beyond = (weight / weight.std()).abs() > 2
        assert beyond.to(torch.float64).mean().item() == pytest.approx(0.0455, abs=0.01)


def test_biases_keep_the_frameworks_default():
    model = HiPPORNN(100, 200, 300)
    for layer in (model.write, model.gate, model.candidate):
        bound = 1 / math.sqrt(layer.in_features)
        assert layer.bias.abs().max() <= bound
    assert model.gate.bias.abs().max() > 0.9 / math.sqrt(model.gate.in_features)


def test_drawing_anew_changes_every_weight():
    model = HiPPORNN(3, 7)
    before = [layer.weight.clone() for layer in (model.write, model.gate, model.candidate)]
    model.reset_parameters()
    for old, layer in zip(before, (model.write, model.gate, model.candidate), strict=True):
        assert (old != layer.weight).all()


def test_the_recurrence_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    model, x = HiPPORNN(1, 8).float(), torch.rand(2, 20, 1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(x)
    assert features.dtype == torch.float32
    assert torch.equal(features, model(x))


def test_legs_with_regular_timestamps_is_legs(relative_error):
    """As the memory is; and a regular grid may have any unit."""
    model, (x, _) = HiPPORNN(3, 8, 20), a_batch(False)
    for unit in (1.0, 0.01):
        assert relative_error(model(x, unit * torch.arange(9.0).expand(4, -1)), model(x)) < 1e-12
