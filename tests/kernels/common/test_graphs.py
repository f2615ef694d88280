"""Sequences that are replayed: by graphs on a GPU; on the CPU what stands in for a graph runs its function again."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hippo import measures
from hippo.kernels import gated
from hippo.kernels.common import compile as jit
from hippo.kernels.common import graphs as graph
from hippo.kernels.gated import steps as gates
from hippo.kernels.legs import gpu as scan
from hippo.kernels.legs.naive import legs_step
from hippo.models import HiPPORNN

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MEMORIES = {
    "scans": {"memory_order": 6},
    "products": {"memory_order": 40},
    "LegT": {"measure": measures.LegT(20.0), "discretization": "zoh"},
}


def rerun(function: Callable) -> Callable:
    """Stands in for `graph.capture`: a replay runs the function again, and writes where the first run wrote."""
    result = function()

    def replay():
        for there, new in zip(result or (), function() or (), strict=True):
            there.copy_(new)
        return result

    return replay


class Steps:
    """LegS steps in tensor operations stand in for Triton's kernels."""

    enter, gate, gate_adjoint = staticmethod(gates.enter), staticmethod(gates.gate), staticmethod(gates.gate_adjoint)

    @staticmethod
    def advance(c, step, u, alpha, target):
        target.copy_(legs_step(c.mT, u, step, alpha).mT)

    @staticmethod
    def retreat(grad, step, u, alpha, target):
        with torch.enable_grad():
            given = torch.zeros_like(grad).requires_grad_(), torch.zeros_like(u).requires_grad_()
            after = legs_step(given[0].mT, given[1], step, alpha).mT
        before, entered = torch.autograd.grad(after, given, grad)
        target.copy_(before)
        u.copy_(entered)


@pytest.fixture
def captured(monkeypatch):
    """What has been captured, a list of functions."""
    functions: list[Callable] = []
    capture = rerun if DEVICE.type == "cpu" else graph.capture
    monkeypatch.setattr(graph, "capture", lambda function: functions.append(function) or capture(function))
    monkeypatch.setattr(gated, "_sequences", graph.Recent(size=8))
    return functions


@pytest.fixture(params=MEMORIES)
def model(request, monkeypatch):
    """A network; with "scans", its memory's steps are those for a GPU."""
    monkeypatch.setattr(jit, "serves", lambda tensor: False)
    if request.param != "scans":
        monkeypatch.setattr(scan, "kernels", lambda tensor: None)
    elif DEVICE.type == "cpu":
        monkeypatch.setattr(scan, "kernels", lambda tensor: Steps)
        monkeypatch.setattr(scan, "_fused", lambda: Steps)
    torch.manual_seed(0)
    return HiPPORNN(2, 5, **MEMORIES[request.param]).to(DEVICE, torch.float64)


@pytest.fixture
def replaying(monkeypatch):
    """The function (whether) -> None that has sequences replayed, or not."""

    def replaying(whether: bool) -> None:
        monkeypatch.setattr(graph, "serves", lambda tensor: whether and not graph.hooked())

    return replaying


def batches(*sizes: int, length: int = 9) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, length, 2, generator=generator, dtype=torch.float64).to(DEVICE) for size in sizes]


def both(replaying: Callable, function: Callable) -> None:
    """Assert that a function returns the same tensors with and without replaying, on the CPU to the last bit."""
    replaying(False)
    expected = function()
    replaying(True)
    function(), function()  # what comes for the second time is captured
    got = function()
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0 if DEVICE.type == "cpu" else 1e-12)


def gradients(model: HiPPORNN, loss: torch.Tensor, **options) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, tuple(model.parameters()), **options))


def test_training_is_the_same_with_smaller_batches_and_evaluation_in_between(model, replaying, captured):
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def train():
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for x in batches(4, 4, 4, 3, 4, 3, 4):
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            with torch.inference_mode():
                losses.append(model(x).sum().clone())
            with torch.no_grad():
                losses.append(model(2 * x).sum())
        return [*losses, *(parameter.detach().clone() for parameter in model.parameters())]

    both(replaying, train)
    assert len(captured) == 6  # for two batch sizes, forward, backward, and without gradients


def test_a_second_forward_pass_before_the_first_one_s_backward_pass_changes_neither(model, replaying, captured):
    def interleaved():
        one, other = (model(x) for x in batches(3, 3))
        first = gradients(model, one.square().sum())
        return [*first, *gradients(model, other.square().sum()), *gradients(model, model(batches(3)[0]).sum())]

    both(replaying, interleaved)


def test_gradients_accumulate_and_a_kept_graph_serves_twice(model, replaying, captured):
    def accumulated():
        model.zero_grad()
        for x in batches(3, 3, 3):
            loss = model(x).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    both(replaying, accumulated)


def test_every_state_may_be_read_and_by_turns(model, replaying, captured):
    def read():
        results = []
        for x in batches(3, 3):
            x.requires_grad_()
            for chosen in ([0], [8], [0, 3, 8], range(9)):
                hidden = model.unroll(x, None, None)
                results += gradients(model, sum(hidden[t].square().sum() for t in chosen))
            results += torch.autograd.grad(model(x, lengths=torch.tensor([9, 1, 4], device=DEVICE)).square().sum(), x)
        return results

    both(replaying, read)


def test_samples_with_times_of_their_own_come_with_each_batch(model, replaying, captured):
    times = torch.rand(3, 9, dtype=torch.float64).cumsum(1).to(DEVICE)
    if model.memory.operators(9, times, like=times) is None:
        pytest.skip("this memory goes step by step where samples have times of their own")

    def timed():
        results = []
        for seed, x in enumerate(batches(3, 3)):
            times = torch.rand(3, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(1)
            results += gradients(model, model(x, times.to(DEVICE)).square().sum())
        return results

    both(replaying, timed)
    assert len(captured) == 2


def test_what_has_been_returned_is_not_written_to(model, replaying, captured):
    replaying(True)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            results = [model(x) for x in batches(3, 3, 3, 3)]
            again = [model(x) for x in batches(3, 3, 3, 3)]
        for one, other in zip(results, again, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert not torch.equal(results[2], results[3])


def test_checkpoints_and_hooks_get_what_is_saved(model, replaying, captured):
    def checkpointed():
        results = []
        for x in batches(3, 3):
            hidden = checkpoint(model, x, use_reentrant=False)
            results += gradients(model, hidden.square().sum())
            with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
                one, other = model(x), model(2 * x)
            results += gradients(model, (one * other).sum())
        return results

    both(replaying, checkpointed)


def test_precision_and_stream_are_part_of_what_makes_sequences_alike(model, replaying, captured, monkeypatch):
    replaying(True)
    x = batches(3)[0]
    for _ in range(3):
        model(x)
    assert len(captured) == 1
    monkeypatch.setattr(graph, "circumstances", lambda tensor: ("another stream",))
    for _ in range(3):
        model(x)
    assert len(captured) == 2


def test_what_comes_once_is_not_captured_and_what_is_captured_is_bounded(model, replaying, captured, monkeypatch):
    replaying(True)
    kept = graph.Recent(size=2)
    monkeypatch.setattr(gated, "_sequences", kept)
    for x in batches(1, 2, 3, 1, 2, 3):
        model(x)  # each has been forgotten when it comes again
    assert len(captured) == 0
    for x in batches(1, 1, 2, 2, 3, 3):
        model(x)
    assert len(captured) == 3
    assert len(kept) == 2


def test_recent_remembers_what_has_come_last():
    made: list[SimpleNamespace] = []
    recent = graph.Recent(size=2)

    def get(key):
        return recent.get(key, lambda: made.append(SimpleNamespace(key=key)) or made[-1])

    assert get("a") is None
    assert get("a") is made[0]
    assert get("b") is None
    assert get("a") is made[0]
    assert get("c") is None  # makes b go, which has not been seen for longer
    assert get("b") is None
    assert get("c") is made[1]
    assert get("a") is None


def test_threads_share_sequences(model, replaying, captured):
    replaying(True)
    given = batches(3, 3, 3, 3)
    expected = [gradients(model, model(x).square().sum()) for x in given]
    results: dict[tuple[int, int], list[torch.Tensor]] = {}

    def work(k):
        for turn in range(5):
            results[k, turn] = gradients(model, model(given[k]).square().sum())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for (k, _), got in results.items():
        torch.testing.assert_close(got, expected[k], rtol=0, atol=1e-12)


def test_a_tensor_on_the_cpu_is_left_to_itself():
    assert not graph.serves(torch.zeros(1))


@pytest.mark.parametrize("model", ["scans"], indirect=True)
def test_orders_that_are_read_by_weights_of_one_size_are_told_apart(model, replaying, captured):
    x, *_ = batches(3)
    for order in (28, 30):
        network = HiPPORNN(2, 5, memory_order=order).to(DEVICE, torch.float64)
        both(replaying, lambda network=network: gradients(network, network(x).sum()))
