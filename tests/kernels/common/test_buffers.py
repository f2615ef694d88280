"""Memory that is used again: never while anybody holds it."""

import gc
import threading

import pytest
import torch

from hippo.kernels.common import buffers
from hippo.models import HiPPORNN


@pytest.fixture(autouse=True)
def nothing_spare():
    gc.collect()
    buffers._spare.clear()


def test_what_is_let_go_is_given_out_again_and_nothing_else():
    like = torch.zeros(0, dtype=torch.float64)
    first = buffers.empty(1000, like)
    address, part = first.data_ptr(), first[10:20]
    assert (first.shape, first.dtype) == ((1000,), torch.float64)
    del first
    assert buffers.empty(1000, like).data_ptr() != address  # a view holds it
    part.fill_(3.0)
    del part
    buffers._spare.pop(next(i for i, block in buffers._spare.items() if block.data_ptr() != address))
    assert buffers.empty(1000, like.float()).data_ptr() != address  # of another dtype
    buffers._spare.pop(next(i for i, block in buffers._spare.items() if block.data_ptr() != address))
    assert buffers.empty(400, like).data_ptr() != address  # less than half of it
    assert buffers.empty(1001, like).data_ptr() != address
    assert buffers.empty(600, like).data_ptr() == address


def test_blocks_may_come_back_while_others_are_looked_for():
    for _ in range(200):
        cycle = [buffers.empty(64, torch.zeros(0))]
        cycle.append(cycle)  # type: ignore[arg-type]
        del cycle
        held = [buffers.empty(64, torch.zeros(0)) for _ in range(5)]
        gc.set_threshold(1)
        try:
            buffers.empty(64, torch.zeros(0))
        finally:
            gc.set_threshold(700, 10, 10)
        del held


def test_a_default_device_does_not_matter():
    with torch.device("meta"):
        assert buffers.empty(5, torch.zeros(0, device="cpu")).device.type == "cpu"


def test_few_blocks_are_kept():
    held = [buffers.empty(100, torch.zeros(0)) for _ in range(9)]
    del held
    assert len(buffers._spare) == buffers._KEPT


@pytest.mark.parametrize("grad", [False, True])
def test_a_network_s_states_stay_what_they_are(grad):
    torch.manual_seed(0)
    model, x = HiPPORNN(2, 8), torch.randn(3, 20, 2)
    with torch.set_grad_enabled(grad):
        features, other = model(x), model(2 * x)
        kept = features.clone()
        for _ in range(3):
            model(-x)
    assert torch.equal(features, kept)
    if grad:
        grads = [torch.autograd.grad(features.sum(), list(model.parameters()), retain_graph=True) for _ in range(2)]
        torch.autograd.grad(other.sum(), list(model.parameters()))
        model(-x)
        grads.append(torch.autograd.grad(features.sum(), list(model.parameters())))
        for again in grads[1:]:
            assert all(map(torch.equal, again, grads[0]))


def test_threads_do_not_share_it():
    torch.manual_seed(0)
    model, xs = HiPPORNN(2, 8), torch.randn(4, 3, 30, 2)
    expected, wrong = [model(x).detach() for x in xs], []

    def work(x, truth):
        for _ in range(20):
            features = model(x)
            features.sum().backward()
            if not torch.equal(features, truth):
                wrong.append(1)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(xs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_tensors_get_what_they_are():
    assert buffers.empty(5, torch.zeros(0, device="meta")).device.type == "meta"
    with torch.inference_mode():
        inside = buffers.empty(50, torch.zeros(0))
    del inside
    again = buffers.empty(50, torch.zeros(0)).requires_grad_()
    assert not again.is_inference()
