"""Rational transfer functions against the companion form that they stand for."""

import pytest
import torch

from hippo.mixers import RTF, by_steps
from hippo.mixers.rtf import characteristic, from_state_space, reciprocal

pytestmark = pytest.mark.usefixtures("float64")


def companion(a):
    return torch.cat([-a.unsqueeze(0), torch.eye(len(a))[:-1]])


def response(A, B, C, D, length):
    """The samples D, C B, C A B, … of a state space."""
    samples, state = [D], B
    for _ in range(length - 1):
        samples.append(C @ state)
        state = A @ state
    return torch.stack(samples)


@pytest.mark.parametrize("length", [16, 17])
def test_the_kernel_is_the_companion_forms_with_the_corrected_readout_and_sample_0(length):
    layer = RTF(3, state_size=6, length=length)
    for feature, a in enumerate(layer.denominator().detach()):
        A, first = companion(a), torch.eye(6)[0]
        C = torch.linalg.solve((torch.eye(6) - torch.linalg.matrix_power(A, length)).mT, layer.b[feature].detach())
        h = layer.h[feature].detach()
        expected = response(A, first, C, h + C @ torch.linalg.matrix_power(A, length - 1) @ first, 40)
        assert abs(expected[0] - h) > 1e-9  # else the alias at 0 would not be tested
        torch.testing.assert_close(layer.kernel(length)[feature], expected[:length], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.kernel(40)[feature], expected, rtol=1e-10, atol=1e-12)


def test_a_transfer_function_made_of_a_state_space_gives_its_response():
    A = torch.diag(torch.tensor([0.9, 0.5, -0.7, 0.2])) + 0.1 * torch.randn(4, 4)
    B, C, D = torch.randn(4), torch.randn(4), torch.randn(())
    a, b, h = from_state_space(A, B, C, D)
    layer = RTF(1, state_size=4, length=30, constraint="none")
    with torch.no_grad():
        layer.a.copy_(a.unsqueeze(0))
        layer.b.copy_((b @ (torch.eye(4) - torch.linalg.matrix_power(companion(a), 30))).unsqueeze(0))
        layer.h.fill_(h - layer._system()[2].item() + layer.h.item())
    torch.testing.assert_close(layer.kernel(30)[0], response(A, B, C, D, 30), rtol=1e-9, atol=1e-10)


def test_characteristic_polynomials_and_reciprocals():
    a = torch.tensor([0.5, -0.3, 0.1])
    torch.testing.assert_close(characteristic(companion(a)), torch.tensor([1.0, 0.5, -0.3, 0.1]))
    series = reciprocal(a.unsqueeze(0), 11)[0]
    expected = response(companion(a), torch.eye(3)[0], torch.eye(3)[0], torch.zeros(()), 12)[1:]
    torch.testing.assert_close(series, expected, rtol=1e-12, atol=1e-14)


def test_the_constraint_keeps_all_poles_within_the_circle_whatever_is_learnt():
    layer = RTF(5, state_size=20, length=64)
    with torch.no_grad():
        layer.a.mul_(1000)
        layer.slack.zero_()
    for a in layer.denominator().detach():
        assert torch.linalg.eigvals(companion(a)).abs().max() < 1
    free = RTF(5, state_size=20, length=64, constraint="none")
    assert torch.equal(free.denominator(), free.a)


def test_a_sequence_shorter_than_the_state_is_right():
    layer, x = RTF(2, state_size=9, length=16), torch.randn(3, 4, 2)
    torch.testing.assert_close(layer(x)[0], by_steps(layer, x, None)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("settings", [{"state_size": 8, "length": 8}, {"constraint": "l1"}, {"initialization": "ones"}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"state_size|constraint|initialization"):
        RTF(2, **settings)
