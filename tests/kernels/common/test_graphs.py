"""Sequences that are replayed in chunks. Without a GPU, what is captured is recorded operation by operation, and a
replay does these again on the same tensors, without the function: as a CUDA graph does."""

import contextlib
import copy
import gc
import threading
import warnings
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from hippo import HiPPO, measures
from hippo.kernels.common import gpus, graphs
from hippo.models import HiPPORNN
from tests.kernels.gated import plain

pytest.importorskip("triton")
gated_gpu = pytest.importorskip("hippo.kernels.gated.gpu")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 4  # of a chunk
MEMORIES = {
    "LegS": {"memory_order": 6},
    "LegT": {"measure": measures.LegT(20.0), "discretization": "zoh"},
    "JacS": {"memory_order": 6, "measure": measures.JacS(2.0)},
}


class Recorded:
    """Stands in for `torch.cuda.CUDAGraph`."""

    replays = 0

    def __init__(self):
        self.operations = []

    @torch.no_grad()
    def replay(self):
        Recorded.replays += 1
        for function, args, kwargs, results in self.operations:
            for new, old in zip(tree_leaves(function(*args, **kwargs)), results, strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class Recording(TorchDispatchMode):
    def __init__(self, graph: Recorded):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        results = function(*args, **(kwargs or {}))
        self.graph.operations.append((function, args, kwargs or {}, tree_leaves(results)))
        return results


class Stream:
    device = "cpu"

    def wait_stream(self, other):
        pass


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    """Networks take the way of a GPU, in chunks of a few steps."""
    monkeypatch.setattr(gated_gpu, "STEPS", STEPS)
    monkeypatch.setattr(Recorded, "replays", 0)
    monkeypatch.setattr(graphs, "_warned", threading.Event())
    monkeypatch.setattr(gpus, "serves", lambda *tensors: True)  # where a test counts operations as well
    if DEVICE.type == "cuda":
        return
    for name in ("advance", "retreat"):
        monkeypatch.setattr(gated_gpu._step, name, getattr(plain, name))
    for name in ("update_state", "update_state_adjoint"):
        monkeypatch.setattr(gated_gpu, name, getattr(plain, name))
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: Recording(graph))


@pytest.fixture(params=MEMORIES)
def model(request):
    return build(request.param)


def build(memory: str) -> HiPPORNN:
    torch.manual_seed(0)
    return HiPPORNN(2, 5, **MEMORIES[memory]).to(DEVICE, torch.float64)


def batches(*sizes: int, length: int = 9) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, length, 2, generator=generator, dtype=torch.float64).to(DEVICE) for size in sizes]


def gradients(model: HiPPORNN, loss: torch.Tensor, **options) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, tuple(model.parameters()), **options))


def same(function, monkeypatch) -> None:
    """Assert that a function returns the same tensors by graphs and by the plain equations."""
    got = function()
    if DEVICE.type == "cpu":
        assert Recorded.replays > 0
    with monkeypatch.context() as patch:
        patch.setattr(HiPPORNN, "states", HiPPORNN.step_by_step)
        expected = function()
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 13])
def test_sequences_of_any_length_go_through_the_same_two_graphs(model, length, monkeypatch):
    x = batches(3, length=length)[0].requires_grad_()
    weight = torch.randn(length, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(DEVICE)

    def states_and_gradients():
        hidden = torch.stack(tuple(model.states(x, None)))
        return [hidden, *torch.autograd.grad((hidden * weight).sum(), [x, *model.parameters()])]

    same(states_and_gradients, monkeypatch)
    if DEVICE.type == "cpu":
        assert Recorded.replays == 2 * -(-length // STEPS)  # each chunk, there and back
    assert model.route == "gpu: graphs"
    model(batches(3, length=30)[0])
    assert len(gated_gpu._chunks[model]) == 1


def test_what_is_returned_is_what_a_replay_has_computed(model, monkeypatch):
    """A graph that does nothing leaves nothing right: no other way is taken beside it."""
    x = batches(3)[0]
    right = model(x)
    monkeypatch.setattr(graphs, "capture", lambda function: function() or (lambda: None))
    wrong = build("LegS" if model.memory.measure.scale_invariant else "LegT")(x)
    assert not torch.allclose(right, wrong)


def test_where_nothing_can_be_captured_it_goes_on_with_one_warning(model, monkeypatch):
    def fail(function):
        function()  # what has been written before it failed does no harm
        raise RuntimeError("out of memory")

    monkeypatch.setattr(graphs, "capture", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = gradients(model, model(batches(3)[0]).sum())
        model(batches(2)[0])
    assert [str(warning.message).startswith("no CUDA graph could be captured") for warning in caught] == [True]
    assert "out of memory" in str(caught[0].message)
    assert model.route == "gpu: kernel by kernel"
    expected = gradients(model, torch.stack(model.step_by_step(batches(3)[0], None))[-1].sum())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_route_tells_of_a_backward_pass_that_cannot_be_captured(model, monkeypatch):
    real = graphs.capture

    def fail(function):
        if function.__name__ == "_backward":
            raise RuntimeError("out of memory")
        return real(function)

    monkeypatch.setattr(graphs, "capture", fail)
    x = batches(3)[0]
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be captured"):
        gradients(model, model(x).sum())
    model(x)
    assert model.route == "gpu: kernel by kernel"


def test_while_somebody_else_captures_nothing_is_captured(monkeypatch, recwarn):
    """CUDA has one capture at a time, and kernels that are started within it become part of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    called = []
    assert graphs.try_capture(lambda: called.append(True)) is None
    assert not called
    assert not recwarn.list


def test_nothing_in_the_loop_waits_for_the_device(model):
    """Recording refuses what a host reads, and a capture that is refused warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(model, model(batches(3)[0]).sum())
    assert model.route == "gpu: graphs"


def test_the_host_waits_for_no_value_on_a_gpu(model):
    """On a CPU for one, whether x is finite; what it waits for when it first meets a shape is not counted."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return function(*args, **(kwargs or {}))

    x = batches(3, length=13)[0]
    gradients(model, model(x).sum())
    with Reads() as reads:
        gradients(model, model(x).sum())
    assert reads.count == x.is_cpu


@pytest.mark.parametrize("memory", MEMORIES)
def test_graphs_die_with_the_model(memory):
    model = build(memory)
    features = model(batches(3)[0])
    features.sum().backward()
    (chunk,) = gated_gpu._chunks[model].values()
    assert copy.deepcopy(model) not in gated_gpu._chunks
    released = [weakref.ref(chunk), weakref.ref(chunk._gates)]
    gc.collect()
    gc.disable()  # they do not wait for the collector
    try:
        del chunk, features, model
        assert [reference() for reference in released] == [None, None]
    finally:
        gc.enable()


def test_the_graphs_of_few_shapes_are_kept(model):
    for x in batches(1, 2, 3, 4, 5, 6):
        model(x)
    kept = list(gated_gpu._chunks[model].values())
    assert len(kept) == gated_gpu._SHAPES
    model(batches(3)[0])
    model(batches(7)[0])
    assert kept[0] in gated_gpu._chunks[model].values()  # it has come again lately
    assert kept[1] not in gated_gpu._chunks[model].values()


def test_training_is_the_same_with_smaller_batches_and_evaluation_in_between(model, monkeypatch):
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def train():
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for x in batches(4, 4, 3, 4):
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            with torch.inference_mode():
                losses.append(model(x).sum().clone())
            with torch.no_grad():
                losses.append(model(2 * x).sum())
        return [*losses, *(parameter.detach().clone() for parameter in model.parameters())]

    same(train, monkeypatch)


def test_a_second_forward_pass_before_the_first_one_s_backward_pass_changes_neither(model, monkeypatch):
    def interleaved():
        one, other = (model(x) for x in batches(3, 3))
        first = gradients(model, one.square().sum())
        return [*first, *gradients(model, other.square().sum()), *gradients(model, model(batches(3)[0]).sum())]

    same(interleaved, monkeypatch)


def test_gradients_accumulate_and_a_kept_graph_serves_twice(model, monkeypatch):
    def accumulated():
        model.zero_grad()
        for x in batches(3, 3):
            loss = model(x).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    same(accumulated, monkeypatch)


def test_every_state_may_be_read_and_by_turns(model, monkeypatch):
    def read():
        results, x = [], batches(3)[0].requires_grad_()
        for chosen in ([0], [8], [0, 3, 8]):
            hidden = model.states(x, None)
            results += gradients(model, sum(hidden[t].square().sum() for t in chosen))
        results += torch.autograd.grad(model(x, lengths=torch.tensor([9, 1, 4], device=DEVICE)).square().sum(), x)
        return results

    same(read, monkeypatch)


def test_samples_with_times_of_their_own_come_with_each_batch(monkeypatch):
    model = build("LegS")

    def timed():
        results = []
        for seed, x in enumerate(batches(3, 3)):
            times = torch.rand(3, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(1)
            times[1, 4:] = times[1, 4]  # ends there
            results += gradients(model, model(x, times.to(DEVICE)).square().sum())
        return results

    same(timed, monkeypatch)
    assert model.route == "gpu: graphs"


def test_what_has_been_returned_is_not_written_to(model):
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            results = [model(x) for x in batches(3, 3, 3)]
            again = [model(x) for x in batches(3, 3, 3)]
        for one, other in zip(results, again, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert not torch.equal(results[1], results[2])


def test_checkpoints_and_hooks_get_what_is_saved(model, monkeypatch):
    def checkpointed():
        results = []
        for x in batches(3, 3):
            hidden = checkpoint(model, x, use_reentrant=False)
            results += gradients(model, hidden.square().sum())
            with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
                one, other = model(x), model(2 * x)
            results += gradients(model, (one * other).sum())
        return results

    same(checkpointed, monkeypatch)


def test_threads_share_graphs(model):
    inputs = batches(3, 3, 3)
    expected = [gradients(model, model(x).square().sum()) for x in inputs]
    results: dict[tuple[int, int], list[torch.Tensor]] = {}

    def work(k):
        for turn in range(3):
            results[k, turn] = gradients(model, model(inputs[k]).square().sum())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 9
    for (k, _), got in results.items():
        torch.testing.assert_close(got, expected[k], rtol=0, atol=1e-12)


def test_gradients_of_gradients_are_refused(model):
    loss = model(batches(3)[0]).square().sum()
    with pytest.raises(RuntimeError, match="step_by_step"):
        gradients(model, loss, create_graph=True)


@contextlib.contextmanager
def product_precision():
    """The new setting, after which torch refuses to tell the old one."""
    before, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, "tf32"
    try:
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@contextlib.contextmanager
def determinism():
    before = torch.are_deterministic_algorithms_enabled()  # a run in the same process may have switched them on
    torch.use_deterministic_algorithms(not before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def autocast():
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("setting", [product_precision, determinism, autocast])
def test_what_chooses_kernels_makes_another_graph(setting, model):
    x = batches(3)[0]
    model(x)
    before = graphs.circumstances(x)
    with setting():
        assert graphs.circumstances(x) != before
        model(x)
    assert graphs.circumstances(x) == before
    if DEVICE.type == "cpu" or setting is not autocast:  # which the network switches off on its own device
        assert len(gated_gpu._chunks[model]) == 2


@pytest.mark.parametrize(
    "rule", [{"measure": measures.JacS(2.0)}, {"discretization": "backward_euler"}], ids=["power", "alpha"]
)
def test_another_memory_in_the_same_network_makes_another_graph(rule, monkeypatch):
    model, x = build("LegS"), batches(3)[0]
    before = model(x)
    model.memory = HiPPO(**{"measure": "legs", "order": 6} | rule)
    same(lambda: [model(x)], monkeypatch)
    assert not torch.allclose(model(x), before)


def test_a_tensor_on_the_cpu_is_left_to_itself(monkeypatch):
    monkeypatch.undo()
    assert not gpus.serves(torch.zeros(1))
