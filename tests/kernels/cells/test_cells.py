"""Compiled cells over whole sequences against the loops in tensor operations."""

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
import torch.utils.checkpoint
import torch.utils.flop_counter
from torch import nn

from hippo.kernels import cells
from hippo.kernels.cells import naive
from hippo.kernels.common import buffers
from hippo.models import GRU, LMU
from hippo.models.rnn import GRULayer
from tests.kernels.pairs import assert_pair, output_and_gradients

pytest.importorskip("numba")
loops = pytest.importorskip("hippo.kernels.common.loops")
from hippo.kernels.cells import cpu  # noqa: E402

D, N = 9, 5
# Of each cell: the shapes of its inputs after from_x, None where there is none; the numbers that x brings to a step.
CELLS = {
    "gru": (naive.gru, cells.gru, 3 * D, [(3 * D, D), (3 * D,), None]),
    "gru-d": (naive.gru, cells.gru, 3 * D, [(3 * D, D), (3 * D,), ("L", "B", D)]),
    "lmu": (naive.lmu, cells.lmu, D, [("L", "B"), (D, D), (D, N), (N, N), (N,), (D,), (N,)]),
    "lmu-gated": (naive.lmu, cells.lmu, 2 * D, [("L", "B"), (2 * D, D), (2 * D, N), (N, N), (N,), (D,), (N,)]),
    "hippo": (naive.lmu, cells.lmu, 2 * D, [("L", "B"), None, (2 * D, N), (N, N), (N,), (D,), None]),
}
every_cell = pytest.mark.parametrize("name", CELLS)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_memory_holds_nothing(monkeypatch):
    monkeypatch.setattr(buffers, "empty", lambda size, like: like.new_full((size,), torch.nan))


@pytest.fixture
def used(monkeypatch):
    """The loops that were called, each with the number of its threads."""
    calls, share = [], cpu.share

    def noted(function, *arrays, shares):
        calls.append((function.__name__, len(shares)))
        share(function, *arrays, shares=shares)

    monkeypatch.setattr(cpu, "share", noted)
    return calls


def build(name, dtype=torch.float64, batch=50, length=13):
    """Return a cell's reference, its door, and inputs of which all but Ā and B̄ require gradients."""
    reference, door, width, shapes = CELLS[name]
    generator = torch.Generator().manual_seed(0)
    sizes = {"L": length, "B": batch}
    inputs = []
    for shape in [("L", "B", width), *shapes]:
        shape = None if shape is None else [sizes.get(size, size) for size in shape]
        value = None if shape is None else torch.randn(shape, generator=generator, dtype=torch.float64) / 3
        inputs.append(None if value is None else value.to(dtype).requires_grad_(shape not in ([N, N], [N])))
    if name.startswith("lmu"):
        inputs[-1].requires_grad_()  # e_m has B̄'s shape
    return reference, door, inputs


def only(*steps):
    """Return the gradient of a loss that reads these steps only."""

    def upstream(hidden):
        grad = torch.zeros_like(hidden)
        grad[list(steps)] = 1 + torch.arange(D, dtype=hidden.dtype)
        return grad

    return upstream


@every_cell
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("upstream", [None, only(3, 4, 7), only(12), only(0)], ids=["all", "some", "last", "first"])
def test_it_is_the_naive_loop_and_so_is_every_gradient(name, dtype, bound, upstream, used):
    reference, door, inputs = build(name, dtype)
    assert_pair(door, reference, inputs, bound, upstream)
    assert [threads for _, threads in used] == [3, 3]


@every_cell
@pytest.mark.parametrize(("batch", "length", "count"), [(1, 1, 1), (2, 37, 1), (33, 2, 2)])
def test_any_number_of_samples_and_steps(name, batch, length, count, used):
    reference, door, inputs = build(name, batch=batch, length=length)
    if length == 1 and inputs[-1] is not None and name.startswith("lmu"):
        inputs[-1].requires_grad_(False)  # a gradient of 0 has no scale
    assert_pair(door, reference, inputs, 1e-12)
    assert [threads for _, threads in used] == [count, count]
    with torch.no_grad():  # of which only the latest steps are kept
        assert (door(*inputs) - reference(*inputs)).abs().max() <= 1e-13


@every_cell
def test_gradients_are_those_of_finite_differences(name, used):
    _, door, inputs = build(name, batch=2, length=3)
    assert torch.autograd.gradcheck(door, inputs, fast_mode=True)
    assert used
    assert torch.autograd.gradgradcheck(door, inputs, fast_mode=True)


@every_cell
def test_gradients_with_a_graph_are_those_without_where_inputs_depend_on_each_other(name):
    _, door, inputs = build(name, batch=3, length=4)
    weight = inputs[2 if name.startswith("gru") else 3]
    z = inputs[0]

    def found(**options):
        inputs[0] = z + weight.sum()
        return torch.autograd.grad(door(*inputs).square().sum(), [z, weight], **options)

    for one, other in zip(found(create_graph=True), found(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@every_cell
def test_gradients_may_be_batched(name):
    _, door, (from_x, *others) = build(name, batch=2, length=3)
    found = (
        torch.autograd.functional.jacobian(lambda from_x: door(from_x, *others)[-1], from_x, vectorize=vectorize)
        for vectorize in (True, False)
    )
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@every_cell
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_sample(name, value):
    _, door, (from_x, *others) = build(name)
    expected = door(from_x, *others)
    broken = from_x.detach().clone()
    broken[5, 20] = value
    got = door(broken, *others)
    kept = torch.arange(50) != 20
    assert torch.equal(got[:, kept], expected[:, kept])
    assert torch.equal(got[:5], expected[:5])
    if value != value:
        assert got[5:, 20].isnan().all()


@every_cell
def test_weights_that_do_not_learn_get_no_gradient(name, used):
    _, door, (from_x, *others) = build(name)
    others = [None if value is None else value.detach() for value in others]
    door(from_x, *others).sum().backward()
    assert from_x.grad is not None
    assert len(used) == 2


@every_cell
def test_a_sequence_may_be_computed_anew_with_another_number_of_threads(name):
    _, door, inputs = build(name)
    expected = torch.autograd.grad(door(*inputs).sum(), inputs[0])
    again = torch.utils.checkpoint.checkpoint(door, *inputs, use_reentrant=False)
    torch.set_num_threads(1)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), inputs[0]), expected, rtol=0, atol=1e-12)


@every_cell
def test_what_has_no_numbers_and_who_counts_operations_get_the_naive_loop(name, used):
    _, door, inputs = build(name, batch=2, length=3)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        door(*inputs)
    assert counter.get_total_flops() > 3 * 2 * D
    assert door(*(None if value is None else value.to("meta") for value in inputs)).shape == (3, 2, D)
    assert not used


def test_tensors_of_two_dtypes_are_not_for_the_compiled_loop():
    _, _, inputs = build("gru")
    assert cells.serves(*inputs)
    assert not cells.serves(inputs[0].float(), *inputs[1:])


def test_a_memory_that_is_learnt_gets_its_gradient(used):
    reference, door, inputs = build("lmu")
    inputs[4].requires_grad_()
    assert_pair(door, reference, inputs, 0)
    assert not used


@pytest.mark.parametrize("model", [GRU(3, D), LMU(3, D, memory_order=N)], ids=["gru", "lmu"])
def test_features_do_not_hold_the_states_of_all_steps(model):
    features = model(torch.randn(4, 7, 3)).detach()
    assert features.untyped_storage().nbytes() == features.nbytes


def test_the_layer_is_the_frameworks_pruned_hooked_or_parametrized(used):
    torch.manual_seed(0)
    ours, theirs = GRULayer(3, D).double(), nn.GRU(3, D).double()
    theirs.load_state_dict(ours.state_dict())
    x, hooked = torch.randn(6, 4, 3, dtype=torch.float64), []

    def same():
        for one, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)

    same()
    assert len(used) == 1
    for layer in (ours, theirs):
        layer.register_forward_hook(lambda *_: hooked.append(_))
        nn.utils.prune.l1_unstructured(layer, "bias_ih_l0", 0.5)
    same()
    for layer in (ours, theirs):
        nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Halved())
    same()
    assert len(used) == 3
    assert len(hooked) == 4
    half = torch.zeros(1, 4, D, dtype=torch.float64) + 0.5
    torch.testing.assert_close(ours(x, half)[0], theirs(x, half)[0])


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_outputs_and_gradients_are_what_the_helper_compares():
    """It must see a wrong output, and a wrong gradient behind a right output."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert len(output_and_gradients(torch.sin, [x], torch.ones_like)) == 2
    with pytest.raises(AssertionError, match="the output"):
        assert_pair(torch.sin, torch.cos, [x], 1e-6)
    with pytest.raises(AssertionError, match="gradient 1"):
        assert_pair(lambda x: x.sin().detach() + 0 * x, torch.sin, [x], 1e-6)
