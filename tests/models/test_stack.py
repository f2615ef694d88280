"""The deep network of mixers: what holds whatever the mixer, by three that differ in their rules for a rate."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from hippo.mixers import LRU, LSSL, RTF, RWKV7, S4, S4D, Mamba, ScaleConvolution
from hippo.models import Stack

pytestmark = pytest.mark.usefixtures("float64")

LAYERS = {
    "s4d": partial(S4D, state_size=6),
    "lru": partial(LRU, state_size=5),
    "rtf": partial(RTF, state_size=3, length=16),
    "scale": partial(ScaleConvolution, order=5, discretization="zoh"),
    "dense": partial(ScaleConvolution, order=5, channels=2),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
SHAPES = [
    {},
    {"norm": "batch", "pooling": "last"},
    {"prenorm": False, "mix": "none"},
    {"norm": "batch", "prenorm": False, "pooling": "last"},
    {"pooling": "time"},
    {"pooling": "last"},
    {"pooling": "last", "last_layer": partial(ScaleConvolution, order=4, channels=3)},
]
every_shape = pytest.mark.parametrize("settings", SHAPES, ids=lambda settings: "-".join(settings) or "default")
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def a_stack(layer, **settings):
    model = Stack(3, 8, layer, depth=2, **settings)
    if settings.get("norm") == "batch":  # statistics that are not those of the beginning
        model.train()(torch.randn(6, 12, 3))
    return model.eval()


def timestamps_for(model, size=4, length=12):
    return torch.cumsum(torch.rand(size, length) + 0.1, dim=1) if model.uses_timestamps else None


@every_shape
@every_layer
def test_a_length_reads_the_sequence_as_if_cut_there(layer, settings):
    model, lengths = a_stack(layer, **settings), torch.tensor([12, 1, 5, 11])
    x = torch.randn(4, 12, 3)
    for times in (None, timestamps_for(model)):
        together = model(x, times, lengths=lengths)
        assert together.shape == (4, 8)
        for b, length in enumerate(lengths):
            cut = None if times is None else times[b : b + 1, :length]
            torch.testing.assert_close(together[b : b + 1], model(x[b : b + 1, :length], cut), **CLOSE)


@pytest.mark.parametrize("junk", [1e6, math.nan])
@every_shape
@every_layer
def test_what_lies_in_the_padding_reaches_neither_features_nor_gradients(layer, settings, junk):
    """In training as well: the statistics of a batch norm are those of valid steps."""
    model, lengths = a_stack(layer, **settings).train(), torch.tensor([12, 1, 5, 11])
    x, weights = torch.randn(4, 12, 3), [weight for weight in model.parameters() if weight.requires_grad]
    padding = torch.arange(12) >= lengths.unsqueeze(1)
    clean = model(x, lengths=lengths)
    expected = torch.autograd.grad(clean.square().sum(), weights, allow_unused=True)
    dirty = model(x.masked_fill(padding.unsqueeze(-1), junk), lengths=lengths)
    assert torch.equal(dirty, clean)
    actual = torch.autograd.grad(dirty.square().sum(), weights, allow_unused=True)
    torch.testing.assert_close(actual, expected, **CLOSE)
    shorter = model(x[:, :11], lengths=lengths.clamp(max=11))
    torch.testing.assert_close(model(x, lengths=lengths.clamp(max=11)), shorter, **CLOSE)


@every_shape
@every_layer
def test_masked_steps_are_as_if_never_recorded_and_batch_mates_do_not_matter(layer, settings):
    model, x = a_stack(layer, **settings), torch.randn(4, 12, 3)
    mask = torch.rand(4, 12) < 0.6
    mask[:, 3] = True
    for times in (None, timestamps_for(model)):
        together = model(x.masked_fill(~mask.unsqueeze(-1), math.nan), times, mask=mask)
        for b, kept in enumerate(mask):
            alone = model(x[b : b + 1, kept], None if times is None else times[b : b + 1, kept])
            torch.testing.assert_close(together[b : b + 1], alone, **CLOSE)


@every_shape
@every_layer
def test_a_sequence_in_chunks_and_in_steps_is_the_whole(layer, settings):
    model, x = a_stack(layer, **settings), torch.randn(4, 12, 3)
    for times in (None, timestamps_for(model)):
        whole, state = model(x, times), None
        for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
            features, state = model.stream(x[:, part], None if times is None else times[:, part], state=state)
        torch.testing.assert_close(features, whole, **CLOSE)
        state = None
        for k, x_k in enumerate(x.unbind(1)):
            features, state = model.step(x_k, None if times is None else times[:, k], state=state)
            if k == 5:  # a state may be kept in a file
                torch.save(state, saved := io.BytesIO())
                saved.seek(0)
                state = torch.load(saved, weights_only=True)
        torch.testing.assert_close(features, whole, **CLOSE)


COMPILED = LAYERS | {
    "s4": partial(S4, state_size=6, length=16),
    "lssl": partial(LSSL, state_size=5),
    "mamba": partial(Mamba, state_size=4),
    "rwkv": partial(RWKV7, head_size=4),
}


@pytest.mark.parametrize("layer", COMPILED.values(), ids=COMPILED.keys())
def test_a_compiled_step_is_the_step_also_when_weights_have_changed(layer):
    model, x = a_stack(layer), torch.randn(6, 1, 3)
    programs = CompileCounter()
    step = model.compiled_step(backend=programs)
    times = None if not model.uses_timestamps else torch.tensor([0.0, 1.0, 2.5, 2.6, 4.0, 7.0]).unsqueeze(1)
    for when in (None, times):
        state = same = None
        with torch.no_grad():
            for k, x_k in enumerate(x):
                if k == 3:
                    for parameter in model.parameters():
                        parameter.add_(0.01)
                at = None if when is None else when[k]
                (features, state), (expected, same) = step(x_k, at, state=state), model.step(x_k, at, state=same)
                torch.testing.assert_close(features, expected, **CLOSE)
    assert programs.frame_count > 0
    torch._dynamo.reset()


def test_what_is_made_for_a_compiled_step_is_made_in_full_precision():
    model, x = a_stack(partial(S4, state_size=8, length=64)).float(), torch.randn(9, 1, 3, dtype=torch.float32)
    step = copy.deepcopy(model).compiled_step(backend="eager")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, state = model.stream(x[:4].transpose(0, 1))
        same = state
        for x_k in x[4:]:
            (features, state), (expected, same) = step(x_k, state=state), model.step(x_k, state=same)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_timestamps_count_in_units_and_the_first_gap_is_one():
    model, x = a_stack(LAYERS["s4d"], unit=0.5), torch.randn(2, 9, 3)
    regular, irregular = torch.arange(9).expand(2, -1) * 0.5 + 7, torch.rand(2, 9).cumsum(1)
    torch.testing.assert_close(model(x, regular), model(x), **CLOSE)
    before = model(x, irregular)
    assert not torch.allclose(before, model(x))
    model.unit = 1.0
    torch.testing.assert_close(model(x, irregular * 2), before, **CLOSE)


def test_a_rate_is_a_factor_on_all_steps():
    model, x, times = a_stack(LAYERS["s4d"]), torch.randn(2, 9, 3), torch.rand(2, 9).cumsum(1)
    model.rate = 2.0
    told = model(x), model(x, times), model.step(x[:, 0])[0]
    model.rate = 1.0
    for block in model.blocks:
        block.mixer.log_step.data += math.log(2)
    torch.testing.assert_close((model(x), model(x, times), model.step(x[:, 0])[0]), told, **CLOSE)


def test_a_rate_is_refused_where_the_layer_has_no_rule_and_timestamps_are_not_read():
    with pytest.raises(ValueError, match="RTF has no rule"):
        a_stack(LAYERS["rtf"], rate=2.0)
    model, x = a_stack(LAYERS["rtf"]), torch.randn(2, 5, 3)
    assert not model.uses_timestamps
    assert torch.equal(model(x, torch.rand(2, 5).cumsum(1)), model(x))
    assert a_stack(LAYERS["s4d"]).uses_timestamps


@every_layer
def test_mixers_keep_their_precision_under_autocast(layer):
    torch.set_default_dtype(torch.float32)
    model, x = a_stack(layer), torch.randn(2, 12, 3)
    with torch.autocast("cpu", torch.bfloat16):
        features, stepped = model(x), model.stream(x)[0]
        model.step(x[:, 0])
    torch.testing.assert_close(features.float(), model(x), rtol=0.05, atol=0.05)
    torch.testing.assert_close(features, stepped, rtol=0.05, atol=0.05)


def test_dropout_is_the_same_at_all_steps_and_absent_from_evaluation():
    model = Stack(3, 50, LAYERS["s4d"], depth=1, mix="none", norm="layer", prenorm=True, dropout=0.5)
    block, y = model.blocks[0], torch.ones(4, 7, 50)
    dropped = block._drop(y)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(model.eval().blocks[0]._drop(y), y)


def test_dynamics_have_a_rate_of_their_own_and_no_decay():
    model = Stack(3, 8, LAYERS["s4d"], depth=2, dynamics_lr=0.25)
    names = dict(model.named_parameters()).keys()
    assert model.undecayed <= names
    assert model.undecayed == {name for name in names if name.endswith(("log_decay", "frequency", "log_step"))}
    assert model.lr_factors == dict.fromkeys(model.undecayed, 0.25)


def test_the_residual_path_and_norms_stand_where_the_settings_say():
    x = torch.randn(2, 6, 3)
    for prenorm in (True, False):
        model = a_stack(LAYERS["s4d"], prenorm=prenorm)
        for block in model.blocks:
            nn.init.zeros_(block.mix.weight)
            nn.init.zeros_(block.mix.bias)  # blocks add nothing
        z = model.encoder(x)
        for _ in range(1 if prenorm else 2):
            z = nn.functional.layer_norm(z, (8,))
        torch.testing.assert_close(model(x), z.mean(1), rtol=1e-4, atol=1e-4)


def test_the_last_block_may_have_a_mixer_of_its_own():
    last = partial(ScaleConvolution, order=4, channels=3)
    mixers = Stack(3, 8, LAYERS["s4d"], depth=3, last_layer=last).mixers
    assert [type(mixer) for mixer in mixers] == [S4D, S4D, ScaleConvolution]
    assert [type(mixer) for mixer in Stack(3, 8, LAYERS["s4d"], depth=1, last_layer=last).mixers] == [ScaleConvolution]
    assert not Stack(3, 8, LAYERS["s4d"], last_layer=LAYERS["rtf"]).uses_timestamps  # which has no rule for gaps


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "group"},
        {"mix": "mlp"},
        {"pooling": "max"},
        {"dropout": 1.0},
        {"unit": 0.0},
        {"rate": -1.0},
        {"depth": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Stack(3, 8, LAYERS["s4d"], **settings)


@pytest.mark.parametrize("layer", [3, False, nn.Linear(2, 2), ScaleConvolution(8)])
def test_what_makes_no_layer_is_refused(layer):
    with pytest.raises(ValueError, match="what makes a Mixer"):
        Stack(3, 8, LAYERS["s4d"], last_layer=layer)


def test_a_state_in_the_wrong_place_is_told():
    model, x = a_stack(LAYERS["s4d"]), torch.randn(2, 4, 3)
    state = model.stream(x)[1]
    for call, part in ((model.stream, x), (model.step, x[:, 0])):
        with pytest.raises(ValueError, match="pass a state by its name, state="):
            call(part, state)
        with pytest.raises(ValueError, match="what an earlier call returned, not tuple"):
            call(part, state=state.mixers)
        with pytest.raises(ValueError, match="all of a sequence or with none"):
            call(part, torch.ones(part.shape[:-1]), state=state)
