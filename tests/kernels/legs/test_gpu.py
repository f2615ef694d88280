"""When LegS steps are scans, and what they refuse; what they compute is in test_gpu.py."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hippo import HiPPO, measures
from hippo.kernels.gated import Operator
from hippo.kernels.legs import gpu as scan
from hippo.kernels.legs.gpu import Scan, Scans


@pytest.fixture
def at_hand(monkeypatch):
    """Scans are to be had, whatever the device."""
    monkeypatch.setattr(scan, "kernels", lambda tensor: SimpleNamespace())


def test_a_sequence_s_steps_are_scans_where_they_can_be_had(at_hand):
    like = torch.zeros(3, 5)
    for timestamps in (None, torch.arange(4.0).expand(3, -1), torch.rand(3, 4).cumsum(1)):
        operators = HiPPO("legs", 5).operators(4, timestamps, like)
        assert isinstance(operators, Scans)
        assert len(operators) == 4
        assert isinstance(operators[0], Operator)
        assert [type(step) for step in operators] == [Operator, Scan, Scan, Scan]
        assert {(step.order, step.width) for step in operators} == {(5, 1)}
        assert all(step.step.shape == (3,) and step.step.dtype == like.dtype for step in list(operators)[1:])
        assert operators[-1].step.data_ptr() == operators[3].step.data_ptr()
        with pytest.raises(IndexError):
            operators[4]
    regular = HiPPO("legs", 5).operators(4, None, like)
    assert [step.step[0].item() for step in list(regular)[1:]] == pytest.approx([1, 1 / 2, 1 / 3])


def test_other_memories_have_what_they_had(at_hand):
    like = torch.zeros(3, 5)
    assert HiPPO("legs", 5, "zoh").operators(4, None, like) is None
    operators = HiPPO(measures.LegT(20.0), 5).operators(4, None, like)
    assert all(isinstance(step, Operator) for step in operators)


def test_where_triton_cannot_be_had_there_are_no_scans_and_nothing_is_said(monkeypatch, recwarn):
    def missing():
        raise ModuleNotFoundError("No module named 'triton'")

    device = torch.device("cpu")
    monkeypatch.setattr(scan, "_fused", missing)
    assert scan._working.__wrapped__(device) is None
    monkeypatch.setattr(scan, "_fused", lambda: SimpleNamespace(works=lambda device: False))
    assert scan._working.__wrapped__(device) is None
    assert not recwarn.list


def test_a_gpu_that_triton_cannot_build_for_is_found_out():
    fused = pytest.importorskip("triton") and scan._fused()
    assert fused.works(torch.device("cpu")) is (type(fused._advance).__name__ == "InterpretedFunction")


def test_tensors_that_no_kernel_is_for_are_left_to_products():
    for tensor in (torch.zeros(2), torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.bfloat16)):
        assert scan.kernels(tensor) is None


def test_the_kernels_are_not_loaded_before_they_are_needed():
    code = "import sys, torch, hippo.models; y = hippo.models.HiPPORNN(1, 4)(torch.ones(2, 5, 1)); "
    code += "print('hippo.kernels.gated.gpu' in sys.modules or 'triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_would_be_read_wrongly_is_refused():
    c, u, step = torch.zeros(5, 7), torch.zeros(1, 7), torch.zeros(7)
    for given, steps in [
        (c.double(), step),
        (c, step.double()),
        (c, torch.zeros(6)),
        (torch.zeros(4, 7), step),
    ]:
        for run in (Scan(5, steps, 0.5).forward, Scan(5, steps, 0.5).backward):
            with pytest.raises(ValueError, match="of one dtype"):
                run(given, u, torch.empty_like(c))
