"""The Legendre Memory Unit against its paper."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch

from hippo.models import LMU

pytestmark = pytest.mark.usefixtures("float64")


def published(order, length):
    """A and B of Voelker et al. 2019, equation 2."""
    i, j = np.indices((order, order))
    A = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    n = np.arange(order)
    return A / length, (2 * n + 1) * (-1.0) ** n / length


def held(order, length):
    """Ā and B̄ of one step by SciPy's exponential."""
    A, B = published(order, length)
    block = np.zeros((order + 1, order + 1))
    block[:order, :order], block[:order, order] = A, B
    exponential = torch.from_numpy(scipy.linalg.expm(block))
    return exponential[:order, :order], exponential[:order, order]


@pytest.mark.parametrize("trainable", [False, True])
def test_the_memory_of_an_impulse_is_the_closed_form(trainable, relative_error):
    """With the state set to read the memory alone, h_t = tanh(m_t), and m after an impulse is Ā^t B̄."""
    order, length = 6, 12.0
    model = LMU(1, order, order, length, trainable)
    with torch.no_grad():
        for parameter in (model.write_h, model.write_m, model.kernel_x, model.kernel_h):
            parameter.zero_()
        model.write_x.fill_(1.0)
        model.kernel_m.copy_(torch.eye(order))
    x = torch.zeros(1, 40, 1)
    x[0, 0] = 1
    A_bar, B_bar = held(order, length)
    m = torch.atanh(model.unroll(x, None, None)[0])
    for k in range(40):
        expected = torch.linalg.matrix_power(A_bar, k) @ B_bar
        assert (m[k] - expected).abs().max() < 1e-13


def test_what_the_memory_holds_are_the_legendre_coefficients_of_the_window():
    """m_n = (2n+1)/θ ∫ u(t−s) P_n(2s/θ − 1) ds, for an input that the window holds exactly."""
    order, length, steps = 24, 200.0, 1000
    model = LMU(1, order, order, length)
    with torch.no_grad():
        for parameter in (model.write_h, model.write_m, model.kernel_x, model.kernel_h):
            parameter.zero_()
        model.write_x.fill_(1.0)
        model.kernel_m.copy_(1e-3 * torch.eye(order))
    x = 0.5 * torch.cos(torch.arange(steps) / 400).reshape(1, -1, 1)
    m = torch.atanh(model(x)[0]) * 1e3
    held_for_a_step = x[0, :, 0].flip(0)[: int(length)]  # u(t − s) for s in [0, 1), [1, 2), …
    node, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(5))
    lag = torch.arange(length).unsqueeze(1) + (node + 1) / 2
    for n in range(3):
        P = torch.from_numpy(scipy.special.eval_legendre(n, (2 * lag / length - 1).numpy()))
        expected = (2 * n + 1) / length * (held_for_a_step * (P * weight / 2).sum(1)).sum()
        assert m[n].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(("trainable", "gated"), [(False, False), (True, False), (False, True)])
def test_the_unit_is_its_equations_and_so_are_its_gradients(trainable, gated, relative_error):
    model, x = LMU(3, 7, 5, 8.0, trainable, gated=gated), torch.randn(4, 9, 3, requires_grad=True)
    with torch.no_grad():
        model.write_m.normal_()
    A_bar, B_bar = held(5, 8.0)
    h, m = torch.zeros(4, 7), torch.zeros(4, 5)
    for x_k in x.unbind(1):
        u = x_k @ model.write_x.mT + h @ model.write_h.mT + m @ model.write_m.mT
        m = m @ A_bar.mT + u * B_bar
        candidate = torch.tanh(x_k @ model.kernel_x.mT + h @ model.kernel_h.mT + m @ model.kernel_m.mT)
        g = torch.sigmoid(model.gate(torch.cat([x_k, h, m], dim=1))) if gated else 1.0
        h = (1 - g) * h + g * candidate
    assert relative_error(model(x), h) < 1e-12
    inputs = [x, *(p for name, p in model.named_parameters() if name != "log_length")]
    upstream = torch.randn(4, 7)
    pairs = zip(*(torch.autograd.grad(out, inputs, upstream) for out in (model(x), h)), strict=True)
    for actual, expected in pairs:
        assert relative_error(actual, expected) < 1e-11


def test_a_trained_window_is_learnt():
    """The window of a delay by 6 is found from 4 by gradient descent on what a longer one remembers."""
    torch.manual_seed(0)
    model, teacher = LMU(1, 4, 4, 4.0, True), LMU(1, 4, 4, 6.0)
    teacher.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(32, 20, 1)
    optimizer = torch.optim.Adam([model.log_length], lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (model(x) - teacher(x).detach()).square().mean()
        loss.backward()
        optimizer.step()
    assert model.log_length.exp().item() == pytest.approx(6.0, rel=0.02)


def test_weights_are_drawn_as_published():
    """LeCun uniform encoders, no memory encoder, Xavier normal kernels: bounds of five standard errors."""
    model = LMU(100, 200, 300)
    for encoder, inputs in ((model.write_x, 100), (model.write_h, 200)):
        assert encoder.abs().max() <= math.sqrt(3 / inputs)
        assert encoder.std().item() == pytest.approx(math.sqrt(1 / inputs), rel=5 / math.sqrt(2 * inputs))
    assert (model.write_m == 0).all()
    for kernel in (model.kernel_x, model.kernel_h, model.kernel_m):
        expected = math.sqrt(2 / sum(kernel.shape))
        assert kernel.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * kernel.numel()))


def test_the_other_initialization_writes_the_input_and_reads_the_memory():
    model = LMU(3, 20, 30, initialization="psmnist")
    assert (model.write_x == 1).all()
    for silent in (model.write_h, model.write_m, model.kernel_x, model.kernel_h):
        assert (silent == 0).all()
    assert (model.kernel_m != 0).all()


def test_a_trainable_window_is_held_in_double_precision(relative_error):
    """The exponential of a large matrix loses all but four digits in single precision."""
    torch.manual_seed(0)
    fixed = LMU(1, 8, 256, 200.0).float()
    trainable = LMU(1, 8, 256, 200.0, True).float()
    trainable.load_state_dict(fixed.state_dict(), strict=False)
    x = torch.randn(2, 300, 1, dtype=torch.float32)
    assert relative_error(trainable(x), fixed(x)) < 1e-4


def test_what_is_no_window_or_initialization_is_refused():
    with pytest.raises(ValueError, match="window"):
        LMU(1, 4, length=0.0)
    with pytest.raises(ValueError, match="unknown initialization 'zeros'"):
        LMU(1, 4, initialization="zeros")
