"""The feed-forward LMU against the LMU that it is without feedback, and against its own steps."""

import pytest
import torch

from hippo.models import LMU, LMUFFT

pytestmark = pytest.mark.usefixtures("float64")


def test_its_memory_is_that_of_an_lmu_without_feedback():
    model, x = LMUFFT(2, 5, memory_order=6, length=8.0), torch.rand(3, 20, 2)
    recurrent = LMU(2, 5, memory_order=6, length=8.0, trainable_length=True)  # which is not compiled
    with torch.no_grad():
        recurrent.write_h.zero_()
        recurrent.write_m.zero_()
        recurrent.kernel_h.zero_()
        recurrent.write_x.abs_()  # so that the ReLU of what is written does nothing
        model.write.weight.copy_(recurrent.write_x)
        model.write.bias.zero_()
        model.hidden.weight.copy_(torch.cat([recurrent.kernel_m, recurrent.kernel_x], dim=1))
        model.hidden.bias.zero_()
        torch.testing.assert_close(model(x), torch.atanh(recurrent(x)).relu(), rtol=1e-9, atol=1e-10)


def test_the_last_features_are_those_after_all_steps_at_every_length_and_rate():
    model, x, lengths = LMUFFT(2, 5, memory_order=6, length=8.0, channels=3), torch.randn(4, 12, 2), [12, 1, 7, 3]
    for model.rate in (1.0, 2.0):
        every = model.unroll(x, None, None)
        torch.testing.assert_close(model(x), every[:, -1], rtol=1e-10, atol=1e-12)
        expected = every[torch.arange(4), torch.tensor(lengths) - 1]
        torch.testing.assert_close(model(x, lengths=torch.tensor(lengths)), expected, rtol=1e-10, atol=1e-12)


def test_at_its_published_size_it_has_the_published_number_of_parameters():
    model = LMUFFT(1)
    head = 346 * 10 + 10
    assert sum(weight.numel() for weight in model.parameters()) + head == pytest.approx(166_000, abs=500)


def test_at_its_published_size_the_memory_reads_its_window_back():
    model = LMUFFT(1)
    u = torch.sin(torch.arange(784) / 40.0)
    m = model.memory.kernel(784, 1.0, u).flip(1) @ u
    lags = torch.arange(5, 770, 40).double()
    read = model.memory.measure.basis(468, -lags, 0.0) @ m
    torch.testing.assert_close(read, torch.sin((783 - lags) / 40.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("settings", [{"memory_order": 0}, {"channels": 0}, {"rate": 0.0}, {"length": -1.0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"memory_order|channels|rate|length"):
        LMUFFT(1, 4, **settings)
