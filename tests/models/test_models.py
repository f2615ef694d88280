"""What every model promises, whatever it is."""

import contextlib
import math
from functools import partial

import pytest
import torch
from torch import nn

from hippo.measures import LMU as LMUMeasure
from hippo.measures import ChebT, FouT, LagT, LegT, Rand
from hippo.mixers import S4D
from hippo.models import (
    FRU,
    GRU,
    GRUD,
    LMU,
    LMUFFT,
    LSTM,
    MGU,
    ODERNN,
    RNN,
    ExpRNN,
    GRUDt,
    HiPPORNN,
    NeuralCDE,
    SequenceModel,
    Stack,
    Transformer,
)

pytestmark = pytest.mark.usefixtures("float64")


def gated(measure, discretization="bilinear"):
    return lambda *sizes: HiPPORNN(*sizes, memory_order=5, measure=measure, discretization=discretization)


FAMILIES = {
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "mgu": MGU,
    "exprnn": ExpRNN,
    "fru": lambda *sizes: FRU(*sizes, length=10, frequencies=4, statistics=3, recurrent_size=5),
    "gru-d": GRUD,
    "gru-dt": GRUDt,
    "ode-rnn": ODERNN,
    "ode-rnn-rk4": lambda *sizes: ODERNN(*sizes, field_size=5, unit=2.0, method="rk4", steps=2),
    "neural-cde": lambda *sizes: NeuralCDE(*sizes, field_size=4, field_depth=1),
    "transformer": lambda *sizes: Transformer(*sizes, layers=2, heads=2, dropout=0.0),
    "lmu": lambda *sizes: LMU(*sizes, memory_order=5, length=6.0),
    "lmu-gated": lambda *sizes: LMU(*sizes, memory_order=5, length=6.0, initialization="psmnist", gated=True),
    "lmu-trainable": lambda *sizes: LMU(*sizes, memory_order=5, length=6.0, trainable_length=True),
    "hippo-legs": HiPPORNN,
    "hippo-legs-zoh": gated("legs", "zoh"),
    "hippo-legt": gated(LegT(10.0)),
    "hippo-lagt": gated(LagT(3.0)),
    "hippo-fourier": gated(FouT(10.0)),
    "hippo-chebyshev": gated(ChebT(10.0)),
    "hippo-lmu": gated(LMUMeasure(10.0), "zoh"),
    "hippo-rand": gated(Rand(10.0)),
    "lmu-fft": lambda *sizes: LMUFFT(*sizes, memory_order=5, length=6.0),
    "stack": lambda *sizes: Stack(*sizes, partial(S4D, state_size=4), depth=2),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
timed_or_not = pytest.mark.parametrize("timed", [False, True])


def a_batch(model, timed, size=4, length=9):
    x = torch.randn(size, length, model.input_size)
    timed = timed or model.needs_timestamps
    return x, torch.cumsum(torch.rand(size, length) + 0.05, dim=1) if timed else None


@timed_or_not
@every_family
def test_features_have_the_documented_shape(family, timed):
    model = family(3, 8)
    features = model(*a_batch(model, timed))
    assert features.shape == (4, 8)
    assert features.dtype == torch.float64
    assert features.isfinite().all()


@timed_or_not
@every_family
def test_a_length_reads_the_sequence_as_if_cut_there(family, timed):
    model, lengths = family(3, 8), torch.tensor([9, 1, 4, 8])
    x, times = a_batch(model, timed)
    together = model(x, times, lengths=lengths)
    for b, length in enumerate(lengths):
        alone = model(x[b : b + 1, :length], None if times is None else times[b : b + 1, :length])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("junk", [1e6, math.nan, math.inf])
@timed_or_not
@every_family
def test_what_lies_in_the_padding_reaches_neither_features_nor_gradients(family, timed, junk):
    model, lengths = family(3, 8), torch.tensor([9, 1, 4, 8])
    x, times = a_batch(model, timed)
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
    model = family(3, 8)
    x, times = a_batch(model, timed)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 1] * 4 + [1], [1] * 9]).bool()
    together = model(x.masked_fill(~mask.unsqueeze(-1), math.nan), times, mask=mask)
    for b, kept in enumerate(mask):
        alone = model(x[b : b + 1, kept], None if times is None else times[b : b + 1, kept])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_a_mask_counts_within_the_length_only(family, timed):
    model = family(3, 8)
    x, times = a_batch(model, timed)
    mask, lengths = torch.rand(4, 9) < 0.6, torch.tensor([5, 9, 3, 7])
    mask[:, 0] = True
    within = mask & (torch.arange(9) < lengths.unsqueeze(1))
    torch.testing.assert_close(
        model(x, times, mask=mask, lengths=lengths), model(x, times, mask=within), rtol=1e-12, atol=1e-13
    )


@every_family
def test_a_mask_and_lengths_that_leave_out_nothing_change_nothing(family):
    model = family(3, 8)
    x, times = a_batch(model, False)
    everything, all_of_it = torch.ones(4, 9, dtype=torch.bool), torch.full((4,), 9)
    expected = model(x, times)
    torch.testing.assert_close(model(x, times, mask=everything), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(model(x, times, lengths=all_of_it), expected, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_each_sequence_is_independent_of_its_batch_mates(family, timed):
    model = family(3, 8)
    x, times = a_batch(model, timed)
    if times is not None:
        times[0, :3], times[1] = 0.0, 2.0
    together = model(x, times)
    for b in range(4):
        alone = model(x[b : b + 1], None if times is None else times[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@timed_or_not
@every_family
def test_gradients_agree_with_finite_differences(family, timed):
    model = family(2, 2)
    x, times = a_batch(model, timed, size=2, length=4)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def features(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x, times))

    assert torch.autograd.gradcheck(features, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"ode-rnn-rk4"}))
def test_gradients_stay_finite_over_a_long_sequence_in_float32(name):
    model, x = FAMILIES[name](1, 16).float(), torch.rand(2, 784, 1, dtype=torch.float32, requires_grad=True)
    model(x, torch.arange(784.0).expand(2, -1)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0 or name.startswith("input_decay"), name  # which nothing missing trains
    assert x.grad.isfinite().all()


@every_family
def test_one_step_is_a_sequence(family):
    model = family(3, 8)
    x, times = a_batch(model, False, length=1)
    assert model(x, times).isfinite().all()
    assert model(x, torch.zeros(4, 1)).isfinite().all()


def test_the_gradient_of_the_first_steps_does_not_vanish_in_the_hippo_network():
    x = torch.rand(2, 784, 1, requires_grad=True)
    HiPPORNN(1, 64)(x).sum().backward()
    early, late = x.grad[:, :8].abs().mean(), x.grad[:, -400:-392].abs().mean()
    assert early > 0.1 * late


@every_family
def test_equal_seeds_draw_equal_parameters_and_others_do_not(family):
    def draw(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(family(3, 8).parameters())

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def trained(family, seed):
    """A model after a few steps of optimization, and features of a batch."""
    torch.manual_seed(seed)
    model = family(3, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(*a_batch(model, True)).square().sum().backward()
        optimizer.step()
    torch.manual_seed(0)
    return model, model(*a_batch(model, True))


@every_family
def test_equal_seeds_train_to_equal_features_and_others_do_not(family):
    assert torch.equal(trained(family, 1)[1], trained(family, 1)[1])
    assert not torch.equal(trained(family, 1)[1], trained(family, 2)[1])


@every_family
def test_a_trained_state_goes_through_a_file_into_a_fresh_model(family, tmp_path):
    model, features = trained(family, 1)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = family(3, 8)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.manual_seed(0)
    assert torch.equal(fresh(*a_batch(fresh, True)), features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(4, 9, 2)}, "x must be"),
        ({"x": torch.zeros(4, 9)}, "x must be"),
        ({"x": torch.zeros(4, 0, 3)}, "x must be"),
        ({"timestamps": torch.ones(4, 8)}, "timestamps must be"),
        ({"timestamps": torch.ones(9)}, "timestamps must be"),
        ({"mask": torch.ones(4, 8)}, "mask must be"),
        ({"mask": torch.ones(4, 9, 2)}, "mask must be"),
        ({"x": torch.full((4, 9, 3), math.nan, dtype=torch.float64)}, "NaN or infinity"),
        ({"x": torch.full((4, 9, 3), math.inf, dtype=torch.float64)}, "NaN or infinity"),
        ({"lengths": torch.full((4,), 10)}, "at most 9"),
        ({"lengths": torch.full((4,), 2.5)}, "whole numbers"),
        ({"lengths": torch.ones(4, dtype=torch.bool)}, "whole numbers"),
        ({"mask": torch.full((4, 9), 0.5)}, "booleans"),
        ({"lengths": torch.full((4,), 9 + 0j)}, "whole numbers"),
        ({"timestamps": torch.ones(4, 9, dtype=torch.bool)}, "pass a mask by its name"),
        ({"timestamps": torch.ones(4, 9, dtype=torch.complex64)}, "timestamps must be real numbers"),
        ({"x": torch.zeros(4, 9, 3).numpy()}, r"not ndarray; torch\.as_tensor\(x\)"),
        ({"lengths": [9, 9, 9, 9]}, "lengths must be a tensor, not list"),
        ({"x": torch.zeros(4, 9, 3, dtype=torch.float32)}, "convert one"),
        ({"x": torch.zeros(4, 9, 3, dtype=torch.int64)}, "convert one"),
        ({"x": torch.zeros(0, 9, 3)}, "x must be"),
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
        family(3, 8)(**{"x": torch.zeros(4, 9, 3), "timestamps": torch.arange(9.0).expand(4, -1), **arguments})


@pytest.mark.parametrize("times", [[0.0, 2.0, 1.0], [-1.0, 0.0, 1.0], [0.0, math.nan, 1.0], [0.0, 1.0, math.inf]])
@pytest.mark.parametrize("family", [HiPPORNN, GRUD, GRUDt, ODERNN, NeuralCDE])
def test_timestamps_that_are_no_times_are_refused(family, times):
    with pytest.raises(ValueError, match="timestamps must be finite, non-negative and non-decreasing"):
        family(1, 4)(torch.zeros(1, 3, 1), torch.tensor([times]))


@pytest.mark.parametrize("family", [GRUD, GRUDt, ODERNN])
def test_a_model_of_gaps_is_refused_a_sequence_without_timestamps(family):
    with pytest.raises(ValueError, match=f"{family.__name__} needs timestamps"):
        family(1, 4)(torch.zeros(1, 3, 1))


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "mgu", "exprnn", "fru", "lmu", "transformer"])
def test_models_that_have_no_use_for_timestamps_ignore_them(name):
    model = FAMILIES[name](3, 8)
    x, times = a_batch(model, True)
    assert torch.equal(model(x, times), model(x))


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"transformer"}))
def test_recurrent_models_do_not_look_ahead(name):
    """Which is what lets padding follow a sequence, and its states be read anywhere."""
    model = FAMILIES[name](3, 8)
    x, times = a_batch(model, True)
    changed = x.clone()
    changed[:, 5:] += 1
    before, after = (model.unroll(v, times, None) for v in (x, changed))
    for k in range(9):
        assert torch.allclose(before[:, k], after[:, k], rtol=1e-12, atol=1e-13) == (k < 5), k


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"transformer"}))
def test_the_last_state_is_that_of_all(name):
    model = FAMILIES[name](3, 8)
    x, times = a_batch(model, True)
    states = model.unroll(x, times, None)
    assert states.shape[:2] == (4, 9)
    torch.testing.assert_close(model.last(x, times, None), states[:, -1], rtol=1e-12, atol=1e-13)


class Wrong(SequenceModel):
    """A network that returns what a test wants."""

    def __init__(self, states):
        super().__init__(3, 8)
        self.states = states

    def unroll(self, x, timestamps, mask):
        return self.states


@pytest.mark.parametrize("lengths", [None, torch.tensor([9, 1, 4, 8])])
@pytest.mark.parametrize("shape", [(9, 4, 8), (4, 8), (4, 8, 9), (4, 9, 7)])
def test_states_of_another_shape_are_refused(shape, lengths):
    with pytest.raises(ValueError, match=r"\(B, (L, )?D\) = \(4.*, not \(") as error:
        Wrong(torch.zeros(shape))(torch.zeros(4, 9, 3), lengths=lengths)
    assert "Wrong" in str(error.value)


# Channels that are missing one by one.


@pytest.mark.parametrize("family", [GRUD, GRUDt, ODERNN, NeuralCDE])
def test_what_a_missing_channel_holds_reaches_neither_features_nor_gradients(family):
    model = family(3, 8)
    x, times = a_batch(model, True)
    mask = torch.rand(4, 9, 3) < 0.6
    mask[:, 0], mask[1, :, 2], mask[2, 3:5] = True, False, False
    mask[1, 0] = torch.tensor([True, True, False])
    lengths = torch.tensor([9, 5, 9, 1])
    clean = model(x.masked_fill(~mask, 0.0), times, mask=mask, lengths=lengths)
    dirty = model(x.masked_fill(~mask, math.nan).requires_grad_(), times, mask=mask, lengths=lengths)
    assert torch.equal(clean, dirty)
    for gradient in torch.autograd.grad(dirty.square().sum(), list(model.parameters())):
        assert gradient.isfinite().all()
    for b, length in enumerate(lengths):
        alone = model(x[b : b + 1, :length], times[b : b + 1, :length], mask=mask[b : b + 1, :length])
        torch.testing.assert_close(dirty[b : b + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", [GRUD, GRUDt, ODERNN, NeuralCDE])
def test_where_no_channel_is_missing_the_mask_says_nothing(family):
    model = family(3, 8)
    x, times = a_batch(model, True)
    everything = torch.ones(4, 9, 3, dtype=torch.bool)
    torch.testing.assert_close(model(x, times, mask=everything), model(x, times), rtol=1e-12, atol=1e-13)
    steps = torch.rand(4, 9) < 0.7
    steps[:, 2] = True
    by_channel = steps.unsqueeze(-1).expand(-1, -1, 3)
    torch.testing.assert_close(model(x, times, mask=by_channel), model(x, times, mask=steps), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", [GRUD, GRUDt, ODERNN, NeuralCDE])
def test_a_missing_channel_changes_the_features(family):
    model = family(3, 8)
    x, times = a_batch(model, True)
    mask = torch.ones(4, 9, 3, dtype=torch.bool)
    mask[:, 4, 1] = False
    assert (model(x, times, mask=mask) - model(x, times)).abs().amax(1).min() > 1e-6


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"gru-d", "gru-dt", "ode-rnn", "ode-rnn-rk4", "neural-cde"}))
def test_models_that_cannot_tell_channels_apart_refuse_a_mask_of_them(name):
    with pytest.raises(ValueError, match="takes no mask for each channel"):
        FAMILIES[name](3, 8)(torch.zeros(4, 9, 3), mask=torch.ones(4, 9, 3, dtype=torch.bool))


@pytest.mark.parametrize(("sizes", "name"), [((0, 7), "input_size"), ((3, 0), "hidden_size"), ((3, -1), "hidden_size")])
@every_family
def test_sizes_below_one_are_refused(family, sizes, name):
    with pytest.raises(ValueError, match=name):
        family(*sizes)


# GRUs ask how this device casts, which fails; solvers of differential equations look at times.
ELSEWHERE = [name for name in FAMILIES if name not in ("gru", "gru-dt", "ode-rnn", "ode-rnn-rk4", "neural-cde")]


@pytest.mark.parametrize("family", ELSEWHERE)
def test_the_host_looks_at_no_value_elsewhere_than_on_a_cpu(family, monkeypatch):
    """Tensors of this device have none, and asking for one is an error; on a GPU the host would wait."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know the device
    model = FAMILIES[family](3, 4).to("meta")
    x, times = torch.empty(2, 9, 3, device="meta"), torch.empty(2, 9, device="meta")
    lengths = torch.empty(2, dtype=torch.int64, device="meta")
    # Equal gaps have equal matrices, and S4D of one rate is a convolution: with timestamps these ask whether they are.
    ask = family == "stack" or (family.startswith("hippo-") and family != "hippo-legs")
    for extras in ({}, {"lengths": lengths}):
        for timestamps in ([] if model.needs_timestamps else [None]) + ([] if ask else [times]):
            assert model(x, timestamps, **extras).shape == (2, 4)
