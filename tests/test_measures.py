import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch

from hippo.measures import LMU, ChebT, FouT, JacS, LagT, LegS, LegT, Rand, by_name, jacobi, legendre

pytestmark = pytest.mark.usefixtures("float64")

WINDOWS = [LegT, ChebT, FouT]  # those that slide and end


def quadrature(oldest, newest, nodes=80):
    """Gauss-Legendre nodes and weights of the uniform probability measure on an interval."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(x + 1) / 2 * (newest - oldest) + oldest, torch.from_numpy(w) / 2


def rule(measure, now, nodes=80):
    """Gauss nodes and weights that integrate dμ_now: Σ w f(x) g_n(x) ≈ ∫ f g_n dμ."""
    if isinstance(measure, LagT):
        r, w = (torch.from_numpy(v) for v in scipy.special.roots_laguerre(nodes))
        scale = 2 / (1 + measure.beta)  # g_n dμ decays as e^−(1+β)s/2
        x = now - measure.length * scale * r
        return x, w * measure.weight(x, now) * measure.length * scale * torch.exp(r)
    if isinstance(measure, ChebT):
        y = torch.cos((torch.arange(nodes) + 0.5) * math.pi / nodes)
        return now + (y - 1) / 2 * measure.length, torch.full((nodes,), 1 / nodes)
    return quadrature(*measure.window(now), nodes)


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


@pytest.mark.parametrize("order", [1, 2, 33])
@pytest.mark.parametrize("power", [-0.5, 1.0, 3.5])
def test_jacs_dynamics_are_the_closed_entries(order, power):
    A, B = JacS(power).dynamics(order)
    for n in range(order):
        assert B[n].item() == pytest.approx(math.sqrt((1 + power) * (2 * n + power + 1)), rel=1e-15)
        for k in range(order):
            below = -math.sqrt((2 * n + power + 1) * (2 * k + power + 1)) if n > k else 0.0
            assert A[n, k].item() == pytest.approx(-(n + power + 1) if n == k else below, rel=1e-15)


def test_jacs_at_0_is_legs_to_the_last_bit():
    times = torch.linspace(0.0, 3.0, 9)
    for one, other in zip(JacS(0.0).dynamics(7), LegS().dynamics(7), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(JacS(0.0).basis(7, times, 3.0), LegS().basis(7, times, 3.0))
    assert (repr(LegS()), LegS().scaled_power, LegT(2.0).scaled_power) == ("LegS()", 0.0, None)


@pytest.mark.parametrize("power", [-1.0, math.inf, math.nan])
def test_a_power_that_has_no_integral_is_refused(power):
    with pytest.raises(ValueError, match="above -1 and finite"):
        JacS(power)


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


@pytest.mark.parametrize("power", [-0.5, 0.0, 3.5])
def test_jacobi_polynomials_agree_with_scipy(power):
    x = torch.linspace(-1, 1, 50)
    expected = scipy.special.eval_jacobi(np.arange(40), 0, power, x.numpy()[:, None])
    torch.testing.assert_close(jacobi(40, x, power), torch.from_numpy(expected), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("length", [1.0, 0.25, 200.0])
def test_lmu_dynamics_are_the_published_entries_and_legts_in_another_basis(order, length):
    A, B = LMU(length).dynamics(order)
    for i in range(order):
        assert B[i].item() == (2 * i + 1) * (-1) ** i / length
        for j in range(order):
            expected = (2 * i + 1) / length * (-1 if i < j else (-1) ** (i - j + 1))
            assert A[i, j].item() == expected
    change = torch.sqrt(2 * torch.arange(order) + 1.0) * (-1.0) ** torch.arange(order)
    A_legt, B_legt = LegT(length).dynamics(order)
    torch.testing.assert_close(change[:, None] * A_legt / change, A, rtol=1e-14, atol=0)
    torch.testing.assert_close(change * B_legt, B, rtol=1e-14, atol=0)
    x = torch.linspace(9 - length, 9, 50)
    torch.testing.assert_close(
        LMU(length).basis(order, x, 9.0) * change, LegT(length).basis(order, x, 9.0), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("order", [1, 3, 7, 33])
@pytest.mark.parametrize("length", [1.0, 4.0])
def test_fourier_dynamics_are_the_derived_entries(order, length):
    """Cosines have the odd indices: A couples them and the mean, and turns each into its sine."""
    A, B = FouT(length).dynamics(order)
    expected = np.zeros((order, order))
    expected[0, 0] = -2
    expected[0, 1::2] = expected[1::2, 0] = -2 * math.sqrt(2)
    expected[1::2, 1::2] = -4
    for j in range(1, (order + 1) // 2):
        expected[2 * j - 1, 2 * j] = -2 * math.pi * j
        expected[2 * j, 2 * j - 1] = 2 * math.pi * j
    torch.testing.assert_close(A * length, torch.from_numpy(expected), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(B * length, torch.tensor([2.0, *[2 * math.sqrt(2), 0] * (order // 2)]))


@pytest.mark.parametrize("order", [2, 4, 34])
def test_at_an_even_order_the_fourier_memory_is_the_odd_one_below_and_a_zero(order):
    (A, B), (below_A, below_B) = FouT(3.0).dynamics(order), FouT(3.0).dynamics(order - 1)
    assert torch.equal(A[:-1, :-1], below_A)
    assert torch.equal(B[:-1], below_B)
    assert (A[-1] == 0).all()
    assert (A[:, -1] == 0).all()
    assert B[-1] == 0
    x = torch.linspace(0, 3, 20)
    assert torch.equal(FouT(3.0).basis(order, x, 3.0)[:, :-1], FouT(3.0).basis(order - 1, x, 3.0))
    assert (FouT(3.0).basis(order, x, 3.0)[:, -1] == 0).all()


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (0.0, 0.0), (0.5, 1.0), (-0.3, 0.2), (2.0, 0.5)])
@pytest.mark.parametrize("order", [1, 2, 20])
def test_laguerre_dynamics_are_the_papers_up_to_normalization(order, alpha, beta):
    """Lower-triangular ones, (1+β)/2 on the diagonal, B_n = C(n+α, n)."""
    A, B = LagT(3.0, alpha, beta).dynamics(order)
    binomial = torch.from_numpy(scipy.special.binom(np.arange(order) + alpha, np.arange(order)))
    plain = -torch.ones(order, order).tril(-1) - (1 + beta) / 2 * torch.eye(order)
    norms = torch.sqrt(binomial)
    torch.testing.assert_close(A * 3, plain * norms / norms[:, None], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(B * 3, binomial / norms, rtol=1e-12, atol=0)


def test_with_legendre_polynomials_the_chebyshev_construction_gives_legt():
    """(2/θ) ⟨d/dy [f̂ + (f − f̂(t)) q], g⟩ with q = (P_N + P_{N−1})/2 for q = (T_N + T_{N−1})/2: see ChebT."""
    order, length = 9, 2.5
    y, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))
    norms = np.sqrt(2 * np.arange(order) + 1)

    def derivative(coefficients):
        return torch.from_numpy(np.polynomial.legendre.legval(y.numpy(), np.polynomial.legendre.legder(coefficients)))

    q = np.zeros(order + 1)
    q[-2:] = 0.5
    basis = LegT(2.0).basis(order, y, 1.0)
    slope = torch.stack([derivative(np.eye(order)[n] * norms[n]) for n in range(order)], dim=-1) if order > 1 else 0
    B = 2 / length * (derivative(q) * w / 2) @ basis
    A = 2 / length * (basis.mT * w / 2) @ slope - B[:, None] * torch.from_numpy(norms)
    for actual, expected in zip((A, B), LegT(length).dynamics(order), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 17])
def test_chebyshev_dynamics_are_the_projected_derivative(order):
    """The construction by quadrature, with numpy's Chebyshev derivative."""
    measure = ChebT(2.0)
    A, B = measure.dynamics(order)
    x, w = rule(measure, 1.0)
    q = np.zeros(order + 1)
    q[-2:] = 0.5
    norms = np.sqrt(np.r_[1, np.full(order, 2)])

    def derivative(coefficients):
        slope = np.polynomial.chebyshev.chebder(coefficients)
        return torch.from_numpy(np.polynomial.chebyshev.chebval(x.numpy(), slope))

    g = measure.basis(order, x, 1.0)
    slopes = [derivative(np.eye(order + 1)[n] * norms[n]) for n in range(order)]
    slope = torch.stack(slopes, dim=-1) - torch.outer(derivative(q), torch.from_numpy(norms[:order]))
    torch.testing.assert_close(A, (g.mT * w) @ slope, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(B, (derivative(q) * w) @ g, rtol=1e-10, atol=1e-10)


EVERY_MEASURE = [
    LegS(),
    LegT(0.3),
    ChebT(0.3),
    FouT(2.0),
    LagT(2.0),
    LagT(0.5, alpha=0.5, beta=1.0),
    LagT(1.0, alpha=0.0, beta=0.1),
    LagT(1.0, alpha=-0.3, beta=0.4),
]


@pytest.mark.parametrize("order", [1, 2, 5, 33])
@pytest.mark.parametrize("now", [1.0, 37.5])
@pytest.mark.parametrize("measure", EVERY_MEASURE, ids=str)
def test_the_basis_is_orthonormal_under_its_weight(measure, now, order):
    if isinstance(measure, FouT):
        order += 1 - order % 2
    x, w = rule(measure, now)
    if isinstance(measure, LagT):  # g² dμ has the density s^α e^−s, times a polynomial
        s, w = (torch.from_numpy(v) for v in scipy.special.roots_genlaguerre(80, measure.alpha))
        x = now - measure.length * s
        w = w * measure.weight(x, now) * measure.length / (s**measure.alpha * torch.exp(-s))
    g = measure.basis(order, x, now)
    torch.testing.assert_close((g * w[:, None]).mT @ g, torch.eye(order), rtol=0, atol=1e-11)


@pytest.mark.parametrize("measure", [m for m in EVERY_MEASURE if getattr(m, "alpha", 0) == 0], ids=str)
def test_the_weight_is_the_density_that_the_rules_integrate(measure):
    now = 3.0
    x, w = rule(measure, now)
    oldest, newest = measure.window(now)

    def f(x):  # decays into the past, where the window is infinite
        return torch.exp(2 * torch.as_tensor(x, dtype=torch.float64) - 6) * torch.cos(torch.as_tensor(x))

    def integrand(u):  # x = newest − u², which takes the singularity at u = 0 away, and that of the arcsine law's end
        x = torch.tensor(newest - u * u)
        return (measure.weight(x, now) * f(x) * 2 * u).item()

    if isinstance(measure, ChebT):
        middle = newest - measure.length / 2
        halves = [
            scipy.integrate.quad(
                lambda u, side=side: (
                    2 * u * measure.weight(v := torch.tensor(middle + side * (measure.length / 2 - u * u)), now) * f(v)
                ).item(),
                0,
                math.sqrt(measure.length / 2),
                epsabs=1e-13,
                epsrel=1e-12,
            )[0]
            for side in (-1, 1)
        ]
        expected = sum(halves)
    else:
        reach = math.sqrt(min(newest - oldest, 60.0))
        expected = scipy.integrate.quad(integrand, 0, reach, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
    assert (w * f(x)).sum().item() == pytest.approx(expected, rel=1e-7)


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
@pytest.mark.parametrize("kind", [LegT, ChebT])
def test_the_projection_of_a_polynomial_obeys_the_equation_of_a_polynomial_window(kind, length, relative_error):
    """The equation reads f at the window's beginning from its reconstruction, so it needs a degree below N."""
    order, now, (f, df), measure = 8, 2.0, SIGNALS["degree 7"], kind(length)
    x, w = rule(measure, now)
    g = measure.basis(order, x, now)
    A, B = measure.dynamics(order)
    c, dc = (w * f(x)) @ g, (w * df(x)) @ g
    assert relative_error(A @ c + B * f(torch.tensor(now)), dc) < 1e-12


@pytest.mark.parametrize("length", [1.0, 0.4])
def test_the_projection_of_a_periodic_signal_obeys_the_fourier_equation(length, relative_error):
    """At the seam a series is the mean of the window's ends, which is the signal where it has the window's period."""
    order, now, turn, measure = 9, 2.3, 2 * math.pi / length, FouT(length)

    def f(x):
        return 0.3 + torch.cos(turn * x + 1) - 2 * torch.sin(3 * turn * x)

    def df(x):
        return -turn * torch.sin(turn * x + 1) - 6 * turn * torch.cos(3 * turn * x)

    x, w = rule(measure, now)
    g = measure.basis(order, x, now)
    A, B = measure.dynamics(order)
    assert relative_error(A @ ((w * f(x)) @ g) + B * f(torch.tensor(now)), (w * df(x)) @ g) < 1e-11


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (0.0, 0.3), (0.5, 0.8), (-0.3, 1.5)])
@pytest.mark.parametrize("order", [1, 2, 16])
def test_the_projection_of_any_signal_obeys_the_laguerre_equation(order, alpha, beta, relative_error):
    """The weight vanishes, or the past has no beginning: nothing is approximated."""
    measure, now = LagT(0.7, alpha, beta), 2.0
    f, df = (
        (lambda x: torch.exp(x / 3) * torch.sin(x)),
        (lambda x: torch.exp(x / 3) * (torch.sin(x) / 3 + torch.cos(x))),
    )
    x, w = rule(measure, now, nodes=120)
    g = measure.basis(order, x, now)
    A, B = measure.dynamics(order)
    assert relative_error(A @ ((w * f(x)) @ g) + B * f(torch.tensor(now)), (w * df(x)) @ g) < 1e-9


@pytest.mark.parametrize(
    ("measure", "order"),
    [(LegS(), 24), (LegT(1.5), 32), (LMU(1.5), 32), (ChebT(1.5), 32), (LagT(0.5), 16), (LagT(0.5, 0.5, 0.6), 16)],
    ids=str,
)
def test_the_solution_of_the_equation_is_the_projection(measure, order, relative_error):
    """From the projection at t = 2 to that at t = 3, by SciPy's solver."""

    def f(x):
        return torch.sin(3 * x + 1) + torch.exp(x / 4)

    def project(now):
        lmu = isinstance(measure, LMU)
        x, w = rule(LegT(measure.length) if lmu else measure, now, nodes=120)
        norms = 2 * torch.arange(order) + 1 if lmu else 1  # the LMU's basis is not normalized
        return (w * f(x)) @ measure.basis(order, x, now) * norms

    A, B = measure.dynamics(order)

    def slope(t, c):
        dc = A @ torch.from_numpy(c) + B * f(torch.tensor(t))
        return (dc / t if measure.scale_invariant else dc).numpy()

    solved = scipy.integrate.solve_ivp(slope, (2, 3), project(2.0).numpy(), "DOP853", rtol=1e-10, atol=1e-12)
    assert relative_error(torch.from_numpy(solved.y[:, -1]), project(3.0)) < 1e-8


def test_the_solution_of_the_fourier_equation_is_the_projection_of_what_has_its_period(relative_error):
    measure, order, turn = FouT(0.8), 11, 2 * math.pi / 0.8

    def f(x):
        return torch.sin(turn * torch.as_tensor(x) + 1) + 0.5 * torch.cos(4 * turn * torch.as_tensor(x))

    def project(now):
        x, w = rule(measure, now)
        return (w * f(x)) @ measure.basis(order, x, now)

    A, B = measure.dynamics(order)
    solved = scipy.integrate.solve_ivp(
        lambda t, c: (A @ torch.from_numpy(c) + B * f(t)).numpy(),
        (2, 3),
        project(2.0).numpy(),
        "DOP853",
        rtol=1e-10,
        atol=1e-12,
    )
    assert relative_error(torch.from_numpy(solved.y[:, -1]), project(3.0)) < 1e-8


@pytest.mark.parametrize("length", [1.0, 3.0])
@pytest.mark.parametrize("kind", [LegT, FouT])
def test_the_kernel_is_the_basis_on_the_window_and_vanishes_after_it(kind, length, relative_error):
    """An impulse a time τ ago has left e^{τA}B, which tends to g(now − τ)/θ: slowly in N, since g ends in a jump."""
    measure, lag = kind(length), torch.linspace(0, 2, 401)[1:] * length
    inside, after = lag <= length, (lag >= 1.2 * length) & (lag <= 1.8 * length)
    errors, left = [], []
    for order in (17, 33, 65):
        A, B = measure.dynamics(order)
        kernel = (torch.linalg.matrix_exp(lag[:, None, None] * A) @ B * length)[:, :4]
        basis = measure.basis(order, 5.0 - lag, 5.0)[:, :4]
        errors.append(relative_error(kernel[inside], basis[inside]))
        left.append(kernel[after].abs().max().item())
    assert errors[0] > 1.3 * errors[1] > 1.3**2 * errors[2]
    assert errors[2] < 0.15
    # A Fourier window leaks O(1/N) of what it should forget, through the seam; a polynomial one far less.
    assert left[0] > 1.8 * left[1] > 1.8**2 * left[2]
    assert left[2] < (0.04 if kind is FouT else 0.01)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_smooth_pulse_is_projected_while_in_the_window_and_gone_after_it(kind):
    """The kernel against a pulse: what convergence in the weak sense means, and exact to many digits."""
    measure, order, width = kind(1.0), 65, 0.05
    A, B = measure.dynamics(order)
    y, w = quadrature(-6 * width, 6 * width, nodes=60)
    pulse = torch.exp(-((y / width) ** 2)) * w * 12 * width
    for lag in (0.4, 0.5, 0.6, 1.5):
        c = pulse @ (torch.linalg.matrix_exp((lag - y)[:, None, None] * A) @ B)
        x, mu = rule(measure, 0.0, nodes=400)
        projected = (mu * torch.exp(-(((x + lag) / width) ** 2))) @ measure.basis(order, x, 0.0)
        bound = 0.3 / order if kind is FouT else 1e-5  # see above
        assert (c - projected).abs().max() < bound, lag
        assert (projected.abs().max() > 0.05) == (lag < 1)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (0.0, 0.0), (1.0, 0.5)])
def test_the_laguerre_kernel_is_the_weighted_basis_everywhere(alpha, beta, relative_error):
    measure, lag = LagT(2.0, alpha, beta), torch.linspace(0, 12, 60)[1:]
    A, B = measure.dynamics(12)
    kernel = torch.linalg.matrix_exp(lag[:, None, None] * A) @ B
    expected = measure.basis(12, 5 - lag, 5.0) * measure.weight(5 - lag, 5.0).unsqueeze(-1)
    assert relative_error(kernel, expected) < 1e-11


def test_laguerre_functions_are_read_far_back():
    """L_n e^−s/2 stays below 1, where both of its factors have left the range of numbers; SciPy's has not."""
    s = torch.tensor([1.0, 300.0, 1000.0, 1400.0])
    read = LagT(1.0, beta=0.0).basis(400, -s, 0.0)
    assert read.abs().max() <= 1 + 1e-9
    for n in (0, 1, 100, 399):
        expected = scipy.special.eval_laguerre(n, s.numpy()) * np.exp(-s.numpy() / 2)
        torch.testing.assert_close(read[:, n], torch.from_numpy(expected), rtol=1e-8, atol=1e-12)
    far = LagT(4.0, beta=0.0).basis(512, -torch.linspace(0, 20_000, 500), 0.0)
    assert far.isfinite().all()
    assert far[:, 511].abs().max() > 0.01


def steady_state(measure, order, frequency, now):
    """The coefficients that cos(frequency · x) has settled to, exactly, as the response of the ODE."""
    A, B = (v.to(torch.complex128) for v in measure.dynamics(order))
    wave = torch.tensor(1j * frequency * now).exp()
    return (torch.linalg.solve(1j * frequency * torch.eye(order) - A, B) * wave).real


def reconstruction_error(measure, order, frequency):
    now = 4.0
    x, w = quadrature(*measure.window(now), nodes=200)
    read = measure.basis(order, x, now) @ steady_state(measure, order, frequency, now)
    return (w @ (read - torch.cos(frequency * x)).square()).sqrt().item()


@pytest.mark.parametrize("kind", [LegT, ChebT])
def test_the_error_of_polynomial_windows_falls_faster_than_any_power(kind):
    """Spectrally, once there are more than π coefficients a period; here 20 rad a window, 3.2 periods."""
    errors = [reconstruction_error(kind(1.0), order, 20.0) for order in (12, 16, 20, 24)]
    rates = [math.log(before / after) for before, after in itertools.pairwise(errors)]
    assert rates[0] > 3
    assert all(later > earlier for earlier, later in itertools.pairwise(rates))
    assert errors[-1] < 1e-6


def test_the_error_of_the_fourier_window_falls_as_the_root_of_the_order_or_at_once():
    """A signal that does not fit the window jumps at the seam: O(N^−1/2). One that does is remembered exactly."""
    errors = [reconstruction_error(FouT(1.0), order, 2.5) for order in (17, 33, 65, 129, 257)]
    for before, after in itertools.pairwise(errors):
        assert math.log2(before / after) == pytest.approx(0.5, abs=0.05)
    assert reconstruction_error(FouT(1.0), 7, 6 * math.pi) < 1e-12


@pytest.mark.parametrize("frequency", [0.5, 2.0])
def test_the_laguerre_coefficients_of_a_wave_fall_geometrically(frequency):
    """∫ e^{−iωs} L_n(s) e^{−s} ds = (iω)^n / (1 + iω)^{n+1}."""
    now, n = 1.3, torch.arange(30)
    turn = torch.tensor(1j * frequency)
    expected = (torch.tensor(1j * frequency * now).exp() * turn**n / (1 + turn) ** (n + 1)).real
    torch.testing.assert_close(steady_state(LagT(1.0), 30, frequency, now), expected, rtol=1e-10, atol=1e-14)


def test_random_dynamics_are_a_contraction_and_a_function_of_their_seed():
    for order in (1, 2, 64):
        A, B = Rand(3.0, seed=1).dynamics(order)
        assert torch.linalg.eigvalsh(A + A.mT).max() < -0.06
        assert torch.linalg.matrix_norm(3 * A + torch.eye(order), 2).item() == pytest.approx(0.9)
        assert torch.equal(A, Rand(3.0, seed=1).dynamics(order)[0])
        assert not torch.allclose(B, Rand(3.0, seed=2).dynamics(order)[1])
        torch.testing.assert_close(Rand(6.0, seed=1).dynamics(order)[1] * 2, B)
    for read in (lambda m: m.basis(3, torch.zeros(1), 1.0), lambda m: m.weight(torch.zeros(1), 1.0)):
        with pytest.raises(ValueError, match="a random memory has no"):
            read(Rand(3.0))


@pytest.mark.parametrize("kind", [*WINDOWS, LMU, LagT, Rand])
@pytest.mark.parametrize("order", [1, 2, 31, 128])
def test_every_sliding_memory_is_stable(kind, order):
    """No eigenvalue of A has a positive real part: what has left the window does not come back."""
    A, _ = kind(1.0).dynamics(order)
    assert torch.linalg.eigvals(A).real.max() < 1e-9


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


@pytest.mark.parametrize("length", [0.0, -1.0, math.nan, math.inf, "1"])
@pytest.mark.parametrize("kind", [*WINDOWS, LMU, LagT, Rand])
def test_a_window_without_length_is_refused(kind, length):
    with pytest.raises(ValueError, match=f"{kind.__name__}'s window"):
        kind(length)


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 1.0), (0.0, -0.1), (math.nan, 1.0), (0.0, math.nan), ("0", 1.0)])
def test_laguerre_parameters_that_define_no_measure_are_refused(alpha, beta):
    with pytest.raises(ValueError, match="LagT needs"):
        LagT(1.0, alpha, beta)


@pytest.mark.parametrize("power", [-1.0, math.nan, math.inf, "1"])
def test_a_power_that_is_no_weight_is_refused(power):
    with pytest.raises(ValueError, match="the power of JacS"):
        JacS(power)


def test_measures_are_found_by_name_and_an_unknown_name_is_refused():
    assert by_name("legs") == LegS()
    with pytest.raises(ValueError, match="unknown measure 'legt'; legs goes by its name"):
        by_name("legt")


def test_a_measure_is_told_apart_by_its_fields_so_it_has_no_constructor_of_its_own():
    with pytest.raises(TypeError, match="frozen dataclass"):

        class Own(LegT):
            def __init__(self, length: float, k: int) -> None:
                super().__init__(length)
