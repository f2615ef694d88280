"""Compiled cells over whole sequences against the plain loops of their models."""

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
import torch.utils.checkpoint
import torch.utils.flop_counter
from torch import nn

from hippo import measures
from hippo.kernels import cells
from hippo.kernels.common import buffers as room
from hippo.kernels.common import products
from hippo.models import FRU, GRU, GRUD, LMU, MGU, ExpRNN, GRUDt, HiPPORNN
from hippo.models.rnn import gru

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch is built without MKL")

FAMILIES = {
    "gru": GRU,
    "gru-d": GRUD,
    "gru-dt": GRUDt,
    "mgu": MGU,
    "exprnn": ExpRNN,
    "fru": lambda *sizes: FRU(*sizes, length=10, frequencies=4, statistics=3, recurrent_size=5),
    "lmu": lambda *sizes: LMU(*sizes, memory_order=5, length=6.0),
    "lmu-gated": lambda *sizes: LMU(*sizes, memory_order=5, length=6.0, gated=True),
    "legt": lambda *sizes: HiPPORNN(*sizes, memory_order=5, measure=measures.LegT(6.0)),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_memory_holds_nothing(monkeypatch):
    monkeypatch.setattr(room, "empty", lambda size, like: like.new_full((size,), torch.nan))


@pytest.fixture
def used(monkeypatch):
    """The functions that were called, each by as many threads as given beside."""
    calls, share = [], products.share
    monkeypatch.setattr(products, "share", lambda *args: calls.append((args[0].__name__, len(args[5]))) or share(*args))
    return calls


def build(family, dtype=torch.float64, batch=50, length=13):
    torch.manual_seed(0)
    model = family(3, 9).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # nothing is 0
            if "original" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model, torch.randn(batch, length, 3, dtype=dtype, requires_grad=True)


def times(model, x):
    gaps = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(2))
    return gaps.cumsum(1) if model.needs_timestamps else None


def observed(model, x):
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    return seen if model.takes_channel_mask else None


def states_and_gradients(model, x, steps=slice(None)):
    mask = observed(model, x)
    given = x if mask is None else x * mask
    states = model.unroll(given, times(model, x), mask)
    hidden = torch.stack(tuple(states))
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
    chosen = range(len(states))[steps] if isinstance(steps, slice) else steps
    loss = sum((states[t] * weight[t]).sum() for t in chosen)  # the others have no gradient at all
    parameters = [p for name, p in model.named_parameters() if not name.startswith("read.")]  # the FRU's, read later
    return [hidden, *torch.autograd.grad(loss, [x, *parameters])]


def plain(monkeypatch):
    monkeypatch.setattr(cells, "serves", lambda *_: False)


@every_family
@pytest.mark.parametrize("steps", [slice(None), [3, 4, 7], [12], [0]], ids=["all", "some", "last", "first"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_it_is_the_plain_loop_and_so_is_every_gradient(family, steps, dtype, bound, used, monkeypatch):
    model, x = build(family, dtype)
    got = states_and_gradients(model, x, steps)
    assert [call for call in used if call == ("_advance", 3)]
    plain(monkeypatch)
    for one, other in zip(got, states_and_gradients(model, x, steps), strict=True):
        assert (one - other).abs().max() <= bound * other.abs().max()


@every_family
@pytest.mark.parametrize(("batch", "length", "count"), [(1, 1, 1), (2, 37, 1), (33, 2, 2)])
def test_any_number_of_samples_and_steps(family, batch, length, count, used, monkeypatch):
    model, x = build(family, batch=batch, length=length)
    got = states_and_gradients(model, x)
    assert set(used) == {("_advance", count), ("_retreat", count)}
    with torch.no_grad():  # of which only the latest steps are kept
        states = torch.stack(tuple(model.unroll(x, times(model, x), observed(model, x))))
        assert states.shape == got[0].shape
    plain(monkeypatch)
    for one, other in zip(got, states_and_gradients(model, x), strict=True):
        assert (one - other).abs().max() <= 1e-13 * other.abs().max()
    with torch.no_grad():
        expected = torch.stack(tuple(model.unroll(x, times(model, x), observed(model, x))))
    assert (states - expected).abs().max() <= 1e-13


@every_family
def test_gradients_of_higher_order_are_those_of_finite_differences(family, used):
    model, x = build(family, batch=2, length=3)
    names = [name for name, _ in model.named_parameters()]

    def features(x, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, weights, (x, times(model, x)))

    assert torch.autograd.gradgradcheck(features, (x, *model.parameters()), fast_mode=True)
    assert used


@every_family
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(family, value):
    model, x = build(family)
    x = x.detach().clone()
    expected = torch.stack(tuple(model.unroll(x, times(model, x), None)))
    x[20, 5] = value
    got = torch.stack(tuple(model.unroll(x, times(model, x), None)))
    others = torch.arange(50) != 20
    assert torch.equal(got[:, others], expected[:, others])
    assert torch.equal(got[:5], expected[:5])
    if value != value:
        assert got[5:, 20].isnan().any()


@every_family
def test_weights_that_do_not_learn_get_no_gradient(family, used):
    model, x = build(family)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model(x, times(model, x)).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert ("_retreat", 3) in used


@every_family
def test_a_sequence_may_be_computed_anew_with_another_number_of_threads(family):
    model, x = build(family)
    expected = torch.autograd.grad(model(x, times(model, x)).sum(), x)
    again = torch.utils.checkpoint.checkpoint(model, x, times(model, x), use_reentrant=False)
    torch.set_num_threads(1)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x), expected, rtol=0, atol=1e-12)


@every_family
def test_where_there_are_no_products_the_plain_loop_serves(family, used, monkeypatch):
    model, x = build(family)
    expected = model(x, times(model, x))
    used.clear()
    monkeypatch.setattr(products, "library", lambda: None)
    torch.testing.assert_close(model(x, times(model, x)), expected, rtol=0, atol=1e-13)
    assert not used


def test_the_window_that_is_learnt_has_a_gradient():
    model = LMU(3, 9, memory_order=5, length=6.0, trainable_length=True).double()
    model(torch.randn(2, 7, 3, dtype=torch.float64)).sum().backward()
    assert model.log_length.grad.abs() > 0


def test_tensors_of_two_dtypes_are_not_for_it(used):
    rnn, x = nn.GRU(3, 9), torch.randn(2, 4, 3)
    assert cells.serves(x, *rnn.parameters())
    assert not cells.serves(x.double(), *rnn.parameters())


@every_family
def test_gradients_with_a_graph_are_those_without_where_an_input_depends_on_the_weights(family):
    model, x = build(family, batch=3, length=4)
    parameters = [p for name, p in model.named_parameters()]

    def found(**options):
        features = model(x, times(model, x))
        again = model(x + features[:, None, :3], times(model, x))
        return torch.autograd.grad(again.square().sum(), parameters, **options)

    for one, other in zip(found(create_graph=True), found(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@every_family
def test_gradients_may_be_batched(family):
    model, x = build(family, batch=2, length=3)
    found = (
        torch.autograd.functional.jacobian(lambda x: model(x, times(model, x)), x, vectorize=vectorize)
        for vectorize in (True, False)
    )
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@every_family
def test_features_do_not_hold_the_states_of_all_steps(family):
    model, x = build(family)
    features = model(x, times(model, x)).detach()
    assert features.untyped_storage().nbytes() == features.nbytes


@every_family
def test_who_traces_or_counts_operations_sees_them_all(family, used):
    model, x = build(family, batch=2, length=3)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model(x, times(model, x))
    assert counter.get_total_flops() > 3 * 2 * 9
    assert not used


def test_a_gru_whose_weights_are_not_its_own_is_the_frameworks(used):
    model, x = build(GRU)
    x = x.transpose(0, 1)
    hook = model.rnn.register_forward_hook(lambda *_: None)
    gru(x, model.rnn)
    hook.remove()
    nn.utils.prune.l1_unstructured(model.rnn, "bias_ih_l0", 0.5)
    torch.testing.assert_close(gru(x, model.rnn), model.rnn(x)[0])
    nn.utils.parametrize.register_parametrization(model.rnn, "weight_hh_l0", nn.Identity())
    torch.testing.assert_close(gru(x, model.rnn), model.rnn(x)[0])
    assert not used
