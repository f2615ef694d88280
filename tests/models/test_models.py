import math

import pytest
import torch
from torch import nn

from hippo import discretize
from hippo.measures import LegT
from hippo.models import GRU, HiPPORNN

pytestmark = pytest.mark.usefixtures("float64")

FAMILIES = {
    "gru": GRU,
    "hippo-legs": HiPPORNN,
    "hippo-legs-zoh": lambda *sizes: HiPPORNN(*sizes, memory_order=5, discretization="zoh"),
    "hippo-legt": lambda *sizes: HiPPORNN(*sizes, memory_order=5, measure=LegT(10.0)),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
timed_or_not = pytest.mark.parametrize("timed", [False, True])


def a_batch(timed, size=4, length=9, channels=3):
    x = torch.randn(size, length, channels)
    return x, torch.cumsum(torch.rand(size, length) + 0.05, dim=1) if timed else None


# What every model promises.


@timed_or_not
@every_family
def test_features_have_the_documented_shape(family, timed):
    x, times = a_batch(timed)
    features = family(3, 7)(x, times)
    assert features.shape == (4, 7)
    assert features.dtype == torch.float64
    assert features.isfinite().all()


@timed_or_not
@every_family
def test_a_length_reads_the_sequence_as_if_cut_there(family, timed):
    model, (x, times), lengths = family(3, 7), a_batch(timed), torch.tensor([9, 1, 4, 8])
    together = model(x, times, lengths=lengths)
    for b, length in enumerate(lengths):
        alone = model(x[b : b + 1, :length], None if times is None else times[b : b + 1, :length])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("junk", [1e6, math.nan, math.inf])
@timed_or_not
@every_family
def test_what_lies_in_the_padding_reaches_neither_features_nor_gradients(family, timed, junk):
    model, (x, times), lengths = family(3, 7), a_batch(timed), torch.tensor([9, 1, 4, 8])
    padding = torch.arange(9) >= lengths.unsqueeze(1)
    clean = model(x, times, lengths=lengths)
    expected = torch.autograd.grad(clean.square().sum(), list(model.parameters()))

    x = x.masked_fill(padding.unsqueeze(-1), junk).requires_grad_()
    times = None if times is None else times.masked_fill(padding, junk if junk != 1e6 else -1.0)
    dirty = model(x, times, lengths=lengths)
    assert torch.equal(dirty, clean)
    for_x, *actual = torch.autograd.grad(dirty.square().sum(), [x, *model.parameters()])
    torch.testing.assert_close(actual, list(expected), rtol=1e-12, atol=1e-13)
    assert (for_x[padding] == 0).all()
    assert for_x.isfinite().all()


@timed_or_not
@every_family
def test_masked_steps_are_as_if_never_recorded(family, timed):
    model, (x, times) = family(3, 7), a_batch(timed)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 1] * 4 + [1], [1] * 9]).bool()
    together = model(x.masked_fill(~mask.unsqueeze(-1), math.nan), times, mask=mask)
    for b, kept in enumerate(mask):
        alone = model(x[b : b + 1, kept], None if times is None else times[b : b + 1, kept])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_a_mask_counts_within_the_length_only(family, timed):
    model, (x, times) = family(3, 7), a_batch(timed)
    mask, lengths = torch.rand(4, 9) < 0.6, torch.tensor([5, 9, 3, 7])
    mask[:, 0] = True
    within = mask & (torch.arange(9) < lengths.unsqueeze(1))
    torch.testing.assert_close(model(x, times, mask, lengths), model(x, times, within), rtol=1e-12, atol=1e-13)


@every_family
def test_a_mask_and_lengths_that_leave_out_nothing_change_nothing(family):
    model, (x, _) = family(3, 7), a_batch(False)
    expected = model(x)
    torch.testing.assert_close(model(x, mask=torch.ones(4, 9, dtype=torch.bool)), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(x, lengths=torch.full((4,), 9)), expected, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_each_sequence_is_independent_of_its_batch_mates(family, timed):
    model, (x, times) = family(3, 7), a_batch(timed)
    if times is not None:
        times[0, :3], times[1] = 0.0, 2.0
    together = model(x, times)
    for b in range(4):
        alone = model(x[b : b + 1], None if times is None else times[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_gradients_agree_with_finite_differences(family, timed):
    model, (x, times) = family(2, 2), a_batch(timed, size=2, length=4, channels=2)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def features(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x, times))

    assert torch.autograd.gradcheck(features, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("family", [GRU, HiPPORNN])
def test_gradients_stay_finite_over_a_long_sequence_in_float32(family):
    model, x = family(1, 64).float(), torch.rand(2, 784, 1, dtype=torch.float32, requires_grad=True)
    model(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert x.grad.isfinite().all()


def test_the_gradient_of_the_first_steps_does_not_vanish_in_the_hippo_network():
    x = torch.rand(2, 784, 1, requires_grad=True)
    HiPPORNN(1, 64)(x).sum().backward()
    early, late = x.grad[:, :8].abs().mean(), x.grad[:, -400:-392].abs().mean()
    assert early > 0.1 * late


@every_family
def test_equal_seeds_draw_equal_parameters_and_others_do_not(family):
    def draw(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(family(3, 7).parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@every_family
def test_a_trained_state_loads_into_a_fresh_model(family):
    model, fresh, (x, _) = family(3, 7), family(3, 7), a_batch(False)
    assert not torch.equal(model(x), fresh(x))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(x), fresh(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(4, 9, 2)}, "x must be"),
        ({"x": torch.zeros(4, 9)}, "x must be"),
        ({"x": torch.zeros(4, 0, 3)}, "x must be"),
        ({"timestamps": torch.ones(4, 8)}, "timestamps must be"),
        ({"timestamps": torch.ones(9)}, "timestamps must be"),
        ({"mask": torch.ones(4, 8)}, "mask must be"),
        ({"mask": torch.ones(4, 9, 3)}, "mask must be"),
        ({"lengths": torch.ones(3)}, "lengths must be"),
        ({"lengths": torch.ones(4, 1)}, "lengths must be"),
        ({"lengths": torch.tensor([9, 9, 0, 9])}, "sequence 2"),
        ({"mask": torch.arange(4).unsqueeze(1).expand(4, 9) != 1}, "sequence 1"),
        ({"mask": torch.arange(9).expand(4, 9) > 6, "lengths": torch.tensor([9, 9, 9, 7])}, "sequence 3"),
    ],
)
@every_family
def test_input_that_does_not_fit_is_refused(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(3, 7)(**{"x": torch.zeros(4, 9, 3), **arguments})


@pytest.mark.parametrize(("sizes", "name"), [((0, 7), "input_size"), ((3, 0), "hidden_size"), ((3, -1), "hidden_size")])
@every_family
def test_sizes_below_one_are_refused(family, sizes, name):
    with pytest.raises(ValueError, match=name):
        family(*sizes)


# The HiPPO network.


@pytest.mark.parametrize("times", [[0.0, 2.0, 1.0], [-1.0, 0.0, 1.0], [0.0, math.nan, 1.0], [0.0, 1.0, math.inf]])
def test_timestamps_that_are_no_times_are_refused(times):
    with pytest.raises(ValueError, match="timestamps"):
        HiPPORNN(1, 4)(torch.zeros(1, 3, 1), torch.tensor([times]))


def test_the_gru_has_no_use_for_timestamps():
    model, (x, times) = GRU(3, 7), a_batch(True)
    assert torch.equal(model(x, times), model(x))


def test_the_gru_is_gated_by_update_and_reset(relative_error):
    model, (x, _) = GRU(3, 7), a_batch(False)
    weight_x, weight_h, bias_x, bias_h = (p.split(7) for p in model.rnn.parameters())
    h = torch.zeros(4, 7)
    for x_k in x.unbind(1):
        from_x = [x_k @ W.mT + b for W, b in zip(weight_x, bias_x, strict=True)]
        from_h = [h @ W.mT + b for W, b in zip(weight_h, bias_h, strict=True)]
        reset, update = (torch.sigmoid(from_x[i] + from_h[i]) for i in (0, 1))
        h = (1 - update) * torch.tanh(from_x[2] + reset * from_h[2]) + update * h
    assert relative_error(model(x), h) < 1e-12


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
    if times is None:
        times = (torch.arange(float(length)) + (0.0 if measure.scale_invariant else 1.0)).expand(size, -1)
    hidden = []
    for b in range(size):
        h, c, before = torch.zeros(model.hidden_size), torch.zeros(order), 0.0
        for k in range(length):
            t = times[b, k].item()
            u = model.write.weight @ torch.cat([x[b, k], h]) + model.write.bias
            if measure.scale_invariant and k == 0:
                c = torch.cat([u, torch.zeros(order - 1)])
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
@pytest.mark.parametrize("measure", ["legs", LegT(6.0)])
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


@pytest.mark.parametrize("lengths", [torch.tensor([3, 7]), torch.tensor([2.5, 1.0])])
def test_lengths_that_cannot_be_are_refused(lengths):
    with pytest.raises(ValueError, match="whole numbers of at most 3"):
        GRU(1, 2)(torch.zeros(2, 3, 1), lengths=lengths)


def test_the_recurrence_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    model, x = HiPPORNN(1, 8).float(), torch.rand(2, 20, 1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(x)
    assert features.dtype == torch.float32
    assert torch.equal(features, model(x))
