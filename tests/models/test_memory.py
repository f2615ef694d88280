"""A memory as a model: its coefficients, and the signal that they stand for."""

import pytest
import torch

from hippo import HiPPO
from hippo.measures import LagT, LegT
from hippo.models import Memory

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("measure", ["legs", LegT(50.0)], ids=str)
@pytest.mark.parametrize("timed", [False, True])
def test_its_features_are_the_coefficients_at_each_end(measure, timed):
    model, x = Memory(1, 6, measure), torch.randn(3, 80, 1)
    timestamps = torch.rand(3, 80).cumsum(1) if timed else None
    coefficients = HiPPO(measure, 6)(x[..., 0], timestamps)[0]
    torch.testing.assert_close(model(x, timestamps), coefficients[:, -1], rtol=0, atol=1e-12)
    lengths = torch.tensor([80, 1, 33])
    torch.testing.assert_close(model(x, timestamps, lengths=lengths), coefficients[range(3), lengths - 1])


@pytest.mark.parametrize("measure", ["legs", LegT(4001.0)], ids=str)
def test_its_read_out_gives_a_slow_signal_back(measure):
    t = torch.linspace(0, 1, 4001)
    signal = torch.stack([torch.sin(9 * t), 1 - t * t])
    model = Memory(1, 40, measure, "zoh" if measure != "legs" else "bilinear")
    read = model.read_out(5)
    assert not any(p.requires_grad for p in [*model.parameters(), *read.parameters()])
    values = read(model(signal.unsqueeze(-1)))
    # The window of a memory that slides began before the signal did: there it has a jump to approximate.
    torch.testing.assert_close(values[:, 1:], signal[:, 1000::1000], rtol=0, atol=5e-3)


def test_what_has_no_window_cannot_be_read_out():
    with pytest.raises(ValueError, match="no window to read back"):
        Memory(1, 6, LagT(4.0)).read_out(5)


def test_every_channel_has_a_memory_of_its_own():
    model, x = Memory(3, 6), torch.randn(4, 50, 3)
    each = [Memory(1, 6)(x[..., c : c + 1]) for c in range(3)]
    assert model.hidden_size == 18
    torch.testing.assert_close(model(x), torch.cat(each, dim=1), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="one channel, not 3"):
        model.read_out(5)


def test_it_does_not_know_how_fast_a_signal_was_sampled():
    t = torch.linspace(0, 1, 801)
    signal = torch.stack([torch.sin(9 * t), torch.cos(5 * t) - t], dim=-1)[None]
    model = Memory(2, 16)
    whole = model(signal)
    for every in (2, 4):
        torch.testing.assert_close(model(signal[:, ::every]), whole, rtol=0, atol=0.03)
    clock = torch.arange(1.0, 802.0)[None]
    torch.testing.assert_close(model(signal, 7 * clock), model(signal, clock))
