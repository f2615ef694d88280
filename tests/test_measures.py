import math

import numpy as np
import pytest
import torch

from hippo.measures import LegS, LegT, by_name, legendre

pytestmark = pytest.mark.usefixtures("float64")


def quadrature(oldest, newest, nodes=80):
    """Gauss-Legendre nodes and weights of the uniform probability measure on an interval."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(x + 1) / 2 * (newest - oldest) + oldest, torch.from_numpy(w) / 2


@pytest.mark.parametrize("order", [1, 2, 3, 33])
def test_legs_dynamics_are_the_published_entries(order):
    A, B = LegS().dynamics(order)
    assert A.shape == (order, order)
    assert B.shape == (order,)
    for n in range(order):
        assert B[n].item() == pytest.approx(math.sqrt(2 * n + 1), rel=1e-15)
        for k in range(order):
            below = -math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1) if n > k else 0.0
            assert A[n, k].item() == pytest.approx(-(n + 1) if n == k else below, rel=1e-15)


@pytest.mark.parametrize("order", [1, 2, 3, 33])
@pytest.mark.parametrize("length", [1.0, 0.25, 200.0])
def test_legt_dynamics_are_the_published_entries(order, length):
    A, B = LegT(length).dynamics(order)
    assert A.shape == (order, order)
    assert B.shape == (order,)
    for n in range(order):
        assert B[n].item() == pytest.approx(math.sqrt(2 * n + 1) / length, rel=1e-15)
        for k in range(order):
            sign = 1 if k <= n else (-1) ** (n - k)
            expected = -math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1) * sign / length
            assert A[n, k].item() == pytest.approx(expected, rel=1e-15)


def test_legendre_polynomials_agree_with_numpy():
    x = torch.linspace(-1, 1, 50)
    torch.testing.assert_close(
        legendre(40, x), torch.from_numpy(np.polynomial.legendre.legvander(x.numpy(), 39)), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("order", [1, 2, 64])
@pytest.mark.parametrize(("measure", "now"), [(LegS(), 1.0), (LegS(), 37.5), (LegT(1.0), 1.0), (LegT(0.3), 7.0)])
def test_the_basis_is_orthonormal_on_its_window(measure, now, order):
    x, w = quadrature(*measure.window(now))
    g = measure.basis(order, x, now)
    torch.testing.assert_close((g * w[:, None]).mT @ g, torch.eye(order), rtol=0, atol=1e-12)


def test_the_windows_are_the_whole_past_and_the_latest_part_of_it():
    assert LegS().window(5.0) == (0.0, 5.0)
    assert LegT(2.0).window(5.0) == (3.0, 5.0)


SIGNALS = {
    "sine": (lambda x: torch.sin(3 * x + 1), lambda x: 3 * torch.cos(3 * x + 1)),
    "exponential": (lambda x: torch.exp(-x), lambda x: -torch.exp(-x)),
    "degree 7": (lambda x: x**7 - 2 * x**3 + 1, lambda x: 7 * x**6 - 6 * x**2),
}


def projection_and_its_derivative(measure, order, signal, now):
    """c(t) and dc/dt, both by quadrature.

    With x = a(t) + (b(t) − a(t)) y, the basis depends on y alone and so dc/dt = ∫ f'(x) (∂x/∂t) g dy. The window's end
    moves at speed 1 and its beginning at 0 (LegS) or 1 (LegT).
    """
    f, df = SIGNALS[signal]
    x, w = quadrature(*measure.window(now))
    g = measure.basis(order, x, now)
    speed = x / now if measure.scale_invariant else torch.ones_like(x)
    return (w * f(x)) @ g, (w * df(x) * speed) @ g


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("order", [1, 2, 16])
@pytest.mark.parametrize("now", [0.5, 3.0])
def test_the_projection_of_any_signal_obeys_the_legs_equation(order, now, signal):
    c, dc = projection_and_its_derivative(LegS(), order, signal, now)
    A, B = LegS().dynamics(order)
    f_now = SIGNALS[signal][0](torch.tensor(now))
    # The rule's own error, which depends on the version of NumPy, and that of summing it up; A multiplies both.
    x, w = quadrature(0.0, now)
    g = LegS().basis(order, x, now)
    defect = torch.linalg.matrix_norm((g.mT * w) @ g - torch.eye(order)) + len(x) * torch.finfo(g.dtype).eps
    largest = SIGNALS[signal][0](x).abs().max()
    error = torch.linalg.vector_norm((A @ c + B * f_now) / now - dc)
    assert error < defect * torch.linalg.matrix_norm(A) * largest / now


@pytest.mark.parametrize("length", [1.0, 0.4])
def test_the_projection_of_a_polynomial_obeys_the_legt_equation(length, relative_error):
    """The equation replaces f at the window's beginning by its reconstruction, so it needs a degree below N."""
    order, now = 8, 2.0
    c, dc = projection_and_its_derivative(LegT(length), order, "degree 7", now)
    A, B = LegT(length).dynamics(order)
    f_now = SIGNALS["degree 7"][0](torch.tensor(now))
    assert relative_error(A @ c + B * f_now, dc) < 1e-12


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_the_legt_kernel_is_the_basis_on_the_window_and_vanishes_after_it(length, relative_error):
    """An impulse a time τ ago has left e^{τA}B, which tends to g(now − τ)/θ: slowly in N, since g ends in a jump."""
    measure, lag = LegT(length), torch.linspace(0, 2, 401) * length
    inside, after = lag <= length, lag >= 1.2 * length
    errors = []
    for order in (16, 32, 64):
        A, B = measure.dynamics(order)
        kernel = (torch.linalg.matrix_exp(lag[:, None, None] * A) @ B * length)[:, :4]
        basis = measure.basis(order, 5.0 - lag, 5.0)[:, :4]
        errors.append(relative_error(kernel[inside], basis[inside]))
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]
    assert errors[2] < 0.15
    assert kernel[after].abs().max() < 0.01


@pytest.mark.parametrize("order", [1, 2, 5, 9])
def test_reading_legt_at_the_windows_beginning_is_the_pade_approximant_of_a_delay(order):
    """C (zI − A)⁻¹ B with C = g(now − θ) is the [N−1/N] Padé approximant of e^{−θz}: the tightest rational delay."""
    measure, z = LegT(2.0), torch.tensor([0.0, 0.3, 1.0, 2.5])
    A, B = measure.dynamics(order)
    read = measure.basis(order, torch.tensor(8.0), 10.0)
    transfer = torch.linalg.solve(z[:, None, None] * torch.eye(order) - A, B.expand(len(z), order)) @ read
    m, n, x = order - 1, order, 2.0 * z
    fact = math.factorial
    above = sum(fact(m + n - j) * math.comb(m, j) * (-x) ** j for j in range(m + 1))
    below = sum(fact(m + n - j) * math.comb(n, j) * x**j for j in range(n + 1))
    torch.testing.assert_close(transfer, above / below, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [0.0, -1.0, math.nan])
def test_a_window_without_length_is_refused(length):
    with pytest.raises(ValueError, match="window"):
        LegT(length)


def test_measures_are_found_by_name_and_an_unknown_name_is_refused():
    assert by_name("legs") == LegS()
    with pytest.raises(ValueError, match="unknown measure 'legt'; legs goes by its name"):
        by_name("legt")
