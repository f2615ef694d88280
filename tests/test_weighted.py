"""Measures of any weight: against those whose matrices are known, and against quadrature and projection."""

from functools import partial

import numpy as np
import pytest
import scipy.integrate
import torch

from hippo import HiPPO
from hippo.measures import ChebT, JacS, LagT, LegS, LegT
from hippo.weighted import Fading, Scaled, Sliding, fading, orthonormal, uniform

pytestmark = pytest.mark.usefixtures("float64")


def recent(s):
    """Mostly the latest third of the window."""
    return np.exp(-(((1 - s) / 0.3) ** 2))


def latest(s):
    """Next to nothing but the latest tenth of the window: its polynomials are 1e100 at the beginning."""
    return np.exp(-(((1 - s) / 0.05) ** 2))


def two(s):
    return 1 + 0.9 * np.cos(6 * s)


def slow(s):
    """A tail that fades a little faster than e^-s."""
    return 1 / (1 + s)


@pytest.fixture(autouse=True)
def denormals():
    """Flushed, as in training, which SciPy's special functions do not stand."""
    torch.set_flush_denormal(True)


def close(one, other, tolerance=1e-10):
    return (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("order", [1, 2, 33, 256])
@pytest.mark.parametrize(
    ("general", "known"),
    [
        (Scaled(), LegS()),
        (Scaled(begin=-0.5), JacS(-0.5)),
        (Scaled(begin=3.5), JacS(3.5)),
        (Sliding(3.0), LegT(3.0)),
        (Sliding(3.0, begin=-0.5, now=-0.5), ChebT(3.0)),
        (Fading(3.0), LagT(3.0)),
    ],
    ids=["LegS", "JacS below", "JacS above", "LegT", "ChebT", "LagT"],
)
def test_the_general_formulas_give_what_is_known(general, known, order):
    for one, other in zip(general.dynamics(order), known.dynamics(order), strict=True):
        assert close(one, other)
    times = torch.linspace(2.01, 4.99, 50)
    if known.window(5.0)[0] == 0.0:
        times = torch.linspace(0.01, 5.0, 50)
    assert close(general.basis(order, times, 5.0), known.basis(order, times, 5.0), 1e-9)
    assert close(general.weight(times, 5.0), known.weight(times, 5.0))


@pytest.mark.parametrize("a", [-0.5, 0.0, 1.0, 2.5])
def test_powers_of_time_are_closed(a):
    n = torch.arange(40)
    root = torch.sqrt(2 * n + a + 1)
    A, B = Scaled(begin=a).dynamics(40)
    assert close(A, -torch.tril(root[:, None] * root, -1) - torch.diag(n + a + 1.0))
    assert close(B, np.sqrt(a + 1) * root)
    assert Scaled(begin=a).leak(40) < 1e-11


@pytest.mark.parametrize(
    ("begin", "now", "density"), [(0.0, 0.0, recent), (0.0, 0.0, latest), (0.5, -0.5, two), (3.0, 0.0, uniform)]
)
def test_polynomials_of_high_degree_are_orthonormal(begin, now, density):
    found = orthonormal(density, begin, now, 256)
    values = found.values(found.nodes) * found.roots[:, None]
    assert abs(values.T @ values - np.eye(257)).max() < 1e-13
    assert abs(values - found.at_nodes).max() < 1e-12
    s = np.array([0.37, 0.5, 0.93])
    numeric = (
        orthonormal(density, begin, now, 12).values(s + 1e-6) - orthonormal(density, begin, now, 12).values(s - 1e-6)
    ) / 2e-6
    np.testing.assert_allclose(orthonormal(density, begin, now, 12).slopes(s), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "measure",
    [
        Scaled(density=recent),
        Scaled(begin=1.0),
        Scaled(density=two, tilted=True),
        Scaled(density=latest),
        Sliding(2.0, density=two),
        Sliding(2.0, 1.0),
        Fading(0.2, slow),
    ],
)
def test_basis_and_weight_belong_to_each_other(measure):
    oldest, newest = measure.window(7.0)
    span = newest - max(oldest, -19.0)
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(300))
    times, w = newest - span * ((x + 1) / 2) ** 2, w * span * (x + 1) / 2  # most nodes where a tail begins
    basis = measure.basis(12, times, 7.0)
    gram = basis.mT @ ((w * measure.weight(times, 7.0)).unsqueeze(-1) * basis)
    assert (gram - torch.eye(12)).abs().max() < 1e-12


@pytest.mark.parametrize(
    "measure",
    [
        Scaled(begin=1.5),
        Scaled(density=recent),
        Scaled(density=two, tilted=True),
        Scaled(1.5, two, tilted=True),
        Sliding(2.0, density=two),
        Sliding(2.0, 1.0),
        Fading(0.2),
        Fading(0.2, slow),
    ],
    ids=["power", "recent", "tilted", "tilted power", "two", "ramp", "fading", "fading faster"],
)
def test_the_ode_keeps_the_projection(measure):
    """From the exact coefficients at time 3 to those at time 4, of a smooth signal, with N = 24."""

    def signal(x):
        return np.sin(3 * x) + 0.3 * np.cos(7 * x)

    def projected(now):
        oldest, newest = measure.window(now)
        oldest = max(oldest, now - 15)
        x, w = np.polynomial.legendre.leggauss(600)
        times = torch.from_numpy((x + 1) / 2 * (newest - oldest) + oldest)
        weight = torch.from_numpy(w) / 2 * (newest - oldest) * measure.weight(times, now)
        return (measure.basis(24, times, now).mT @ (weight * torch.from_numpy(signal(times.numpy())))).numpy()

    A, B = (v.numpy() for v in measure.dynamics(24))

    def slope(t, c):
        return (A @ c + B * signal(t)) / (t if measure.scale_invariant else 1)

    got = scipy.integrate.solve_ivp(slope, (3, 4), projected(3.0), rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]
    tolerance = max(1e-8, 3 * measure.leak(24))
    assert abs(got - projected(4.0)).max() < min(tolerance, 2e-2)
    assert abs(got - projected(3.0)).max() > 0.1


def test_a_weight_that_is_not_closed_says_how_much_it_leaks():
    leaks = [Scaled(density=recent).leak(order) for order in (2, 8, 32, 128)]
    assert leaks == sorted(leaks, reverse=True)
    assert leaks[0] > 0.1
    assert Sliding(1.0).leak(30) < 1e-11
    assert Fading(1.0).leak(30) < 1e-11
    assert 0.1 > Fading(1.0, slow).leak(4) > Fading(1.0, slow).leak(32) > 1e-3


def bump(at, width):
    return lambda s: np.exp(-(((s - at) / width) ** 2))


@pytest.mark.parametrize(
    ("density", "order"), [(bump(0.5, 0.014), 256), (bump(1.0, 0.05), 256), (bump(0.0, 0.014), 128), (two, 256)]
)
def test_polynomials_of_narrow_weights_are_orthonormal_by_a_rule_of_our_own(density, order):
    found = orthonormal(density, 0.0, 0.0, order)
    x, w = np.polynomial.legendre.leggauss(40)
    begins = np.arange(300)[:, None] / 300
    s, w = (begins + (x + 1) / 600).ravel(), np.tile(w / 600, 300)
    there = density(s) > 1e-300
    values = found.values(s[there]) * np.sqrt(w * density(s) / found.total)[there, None]
    assert abs(values.T @ values - np.eye(order + 1)).max() < 1e-11


def test_a_leak_is_a_share():
    for k in range(5):
        measure = Sliding(1.0, density=lambda s, k=k: 0.05 + np.exp(-s / 10.0**-k))
        assert 0 <= measure.leak(1) <= 1


@pytest.mark.parametrize("make", [partial(Scaled, density=latest), partial(Sliding, 300.0, density=latest)])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_a_memory_of_the_latest_past_only_holds_it_at_every_order(make, discretization):
    signal = torch.sin(torch.arange(400.0) / 20).unsqueeze(0)
    for order in (4, 24, 64):
        memory = HiPPO(make(), order, discretization)
        state = memory.remember(signal)
        assert (memory.reconstruct(state, torch.tensor([395.0, 399.0])) - signal[0, [394, 398]]).abs().max() < 0.06


def test_polynomials_of_a_tail_do_not_overflow():
    found = fading(slow, 256)
    values = found.values(found.nodes[found.nodes < 1000]) * found.roots[found.nodes < 1000, None]
    assert abs(found.at_nodes.T @ found.at_nodes - np.eye(257)).max() < 1e-13
    assert abs(values - found.at_nodes[found.nodes < 1000]).max() < 1e-11


@pytest.mark.parametrize("discretization", ["bilinear", "backward_euler", 0.7, "zoh"])
@pytest.mark.parametrize("timed", [False, True])
def test_a_memory_of_the_even_weight_is_legs(discretization, timed):
    signal = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    times = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)).cumsum(1) if timed else None
    if times is not None:
        times[:, 0] = 0.0  # the second sample stands for all the past
        times[1, 5] = times[1, 4]
    got, state = HiPPO(Scaled(), 12, discretization)(signal, timestamps=times)
    expected, last = HiPPO("legs", 12, discretization)(signal, timestamps=times)
    assert close(got, expected, 1e-11)
    assert close(state.coefficients, last.coefficients, 1e-11)
    ones = HiPPO(Scaled(density=recent), 12, discretization)(torch.ones(2, 40), timestamps=times)[0]
    assert (ones - torch.eye(1, 12)[0]).abs().max() < 1e-11  # a constant is remembered as it is


@pytest.mark.parametrize(
    "measure", [Scaled(), Scaled(begin=2.0), Scaled(density=recent)], ids=["even", "power", "recent"]
)
def test_repeated_samples_leave_an_exact_memory_as_it_is(measure):
    signal = torch.randn(1, 60, generator=torch.Generator().manual_seed(0))
    for discretization, least, most in (("zoh", 0.0, 1e-12), ("bilinear", 1e-3, 1.0)):
        memory = HiPPO(measure, 10, discretization)
        once, twice = (memory.remember(x).coefficients for x in (signal, signal.repeat_interleave(2, dim=1)))
        assert least <= (once - twice).abs().max() <= most


@pytest.mark.parametrize("measure", [Scaled(begin=1.0), Scaled(density=recent)], ids=["power", "recent"])
def test_it_gives_back_what_it_remembers(measure):
    t = torch.arange(1, 2001) / 2000
    memory = HiPPO(measure, 24, "zoh")
    c = memory.remember(torch.sin(6 * t).unsqueeze(0)).coefficients[0]
    at = torch.linspace(0.3, 1.0, 50)
    assert (memory.reconstruct(c, at) - torch.sin(6 * at)).abs().max() < 5e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scaled(begin=-1.0), "above -1"),
        (lambda: Scaled(density=lambda s: 1 - s), "weighs the present at 0"),
        (lambda: Scaled(density=lambda s: s - 0.5), "at least 0"),
        (lambda: Scaled(density=lambda s: np.where(s > 1 - 1e-9, 1.0, 0.0)), "0 nearly everywhere"),
        (lambda: Sliding(1.0, density=lambda s: np.full_like(s, np.nan)), "finite"),
        (lambda: Scaled(density=lambda s: 1 / np.sqrt(np.maximum(1 - s, 1e-300)) * 1e200), "at the present"),
        (lambda: Scaled(density=lambda s: np.where(s > 0.5, 1.0, 0.0)).dynamics(64), "changes too fast"),
        (lambda: Fading(1.0, lambda s: np.exp(-20 * s)).dynamics(256), "changes too fast"),
        (lambda: Sliding(0.0), "above 0 and finite"),
        (lambda: Scaled(density=lambda s: np.exp(-(((s - 0.5) / 5e-4) ** 2)) + 1e-9), "changes too fast"),
        (lambda: Fading(1.0, lambda s: s), "weighs the present at 0"),
        (lambda: Fading(1.0, lambda s: np.exp(0.99 * s)), "grows too fast"),
        (lambda: Sliding(1.0, now=-0.5).leak(3), "not defined"),
    ],
)
def test_what_is_no_weight_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
