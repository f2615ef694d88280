"""When LegS is computed by Triton's kernels; what they compute is in tests/kernels/gated."""

import subprocess
import sys

import pytest
import torch

from hippo import HiPPO, measures
from hippo.kernels.common import gpus
from hippo.kernels.gated.steps import LegSSteps, LTIStep


def test_the_steps_that_kernels_take():
    like = torch.zeros(3, 5)
    for timestamps in (None, torch.arange(4.0).expand(3, -1), torch.rand(3, 4).cumsum(1)):
        steps = HiPPO("legs", 5, 0.3).kernel_steps(4, timestamps, like)
        assert isinstance(steps, LegSSteps)
        assert (steps.order, steps.alpha) == (5, 0.3)
        assert steps.step.shape == (3, 3)
        assert steps.step.dtype == like.dtype
        assert steps.step.is_contiguous()
    regular, repeated = (
        HiPPO("legs", 5).kernel_steps(4, times, like) for times in (None, torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3))
    )
    assert regular.step[:, 0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert repeated.step.tolist() == [[0] * 3, [1] * 3, [0] * 3]
    assert HiPPO("legs", 5).kernel_steps(1, None, like).step.shape == (0, 3)


def test_a_step_that_all_samples_share_is_made_once():
    memory, like = HiPPO(measures.LegT(20.0), 5), torch.zeros(3, 5)
    step = memory.kernel_steps(4, None, like)
    assert isinstance(step, LTIStep)
    assert memory.kernel_steps(9, None, like).A is step.A
    A, B = memory.transition(like)
    assert torch.equal(step.A, A)
    assert torch.equal(step.B, B)
    assert memory.kernel_steps(4, torch.rand(3, 4).cumsum(1), like) is None
    assert HiPPO("legs", 5, "zoh").kernel_steps(4, None, like) is None


def test_where_triton_cannot_be_had_there_are_no_kernels_and_nothing_is_said(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "hippo.kernels.common.probe", None)
    assert not gpus.works.__wrapped__(torch.device("cpu"))
    assert not recwarn.list


def test_a_device_that_triton_cannot_build_for_is_found_out():
    pytest.importorskip("triton")
    from hippo.kernels.common import probe

    interpreted = type(probe._store).__name__ == "InterpretedFunction"
    assert gpus.works.__wrapped__(torch.device("cpu")) is interpreted


def test_tensors_that_no_kernel_is_for_are_left_to_others():
    for tensor in (torch.zeros(2), torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.bfloat16)):
        assert not gpus.serves(tensor)


def test_the_kernels_are_not_loaded_before_they_are_needed():
    code = "import sys, torch, hippo.models; y = hippo.models.HiPPORNN(1, 4)(torch.ones(2, 5, 1)); "
    code += "print('hippo.kernels.gated.gpu' in sys.modules or 'triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
