"""Denormal numbers, which a thread has again after a loop that does without them."""

import pytest
import torch

from hippo.kernels.common import denormals


def has_them() -> bool:
    return (torch.tensor([1e-30]) * 1e-9).item() > 0


@pytest.mark.parametrize("before", [True, False])
def test_a_thread_has_none_within_and_is_afterwards_as_it_was(before):
    usual = has_them()
    assert torch.set_flush_denormal(not before), "torch says that this processor cannot"
    try:
        assert has_them() == before
        with denormals.flushed():
            assert not has_them()
        assert has_them() == before
    finally:
        torch.set_flush_denormal(not usual)
