import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.signal import cont2discrete

from hippo import HiPPO, discretize
from hippo.measures import ChebT, FouT, LagT, LegS, LegT

pytestmark = pytest.mark.usefixtures("float64")

METHODS = {
    "euler": (discretize.euler, {"method": "euler"}),
    "backward": (discretize.backward_euler, {"method": "backward_diff"}),
    "bilinear": (discretize.bilinear, {"method": "bilinear"}),
    "zoh": (discretize.zoh, {"method": "zoh"}),
    "gbt 0": (lambda A, B, dt: discretize.gbt(A, B, dt, 0.0), {"method": "gbt", "alpha": 0.0}),
    "gbt 0.3": (lambda A, B, dt: discretize.gbt(A, B, dt, 0.3), {"method": "gbt", "alpha": 0.3}),
    "gbt 0.8": (lambda A, B, dt: discretize.gbt(A, B, dt, 0.8), {"method": "gbt", "alpha": 0.8}),
    "gbt 1": (lambda A, B, dt: discretize.gbt(A, B, dt, 1.0), {"method": "gbt", "alpha": 1.0}),
}


def together(A_bar, B_bar):
    return torch.cat([torch.as_tensor(A_bar), torch.as_tensor(B_bar).reshape(*A_bar.shape[:-1], 1)], dim=-1)


def scipys(A, B, dt, options):
    order = len(B)
    system = A.numpy(), B.numpy()[:, None], np.eye(order), np.zeros((order, 1))
    A_bar, B_bar, *_ = cont2discrete(system, dt, **options)
    return together(A_bar, B_bar)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("measure", [LegS(), LegT(1.0), LegT(20.0)], ids=["legs", "legt", "legt20"])
@pytest.mark.parametrize("order", [1, 2, 24])
def test_every_method_agrees_with_scipy(measure, order, method, relative_error):
    ours, options = METHODS[method]
    A, B = measure.dynamics(order)
    for dt in (1e-3, 0.1, 1.0):
        assert relative_error(together(*ours(A, B, dt)), scipys(A, B, dt, options)) < 1e-12


def test_a_short_zero_order_hold_agrees_with_scipy(relative_error):
    A, B = LegS().dynamics(8)
    assert relative_error(discretize.zoh(A, B, 1e-3)[1], scipys(A, B, 1e-3, {"method": "zoh"})[:, -1]) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_steps_is_each_step_alone(method):
    ours, _ = METHODS[method]
    A, B = LegT(1.0).dynamics(5)
    dt = torch.rand(2, 3) + 0.1
    A_bar, B_bar = ours(A, B, dt)
    assert A_bar.shape == (2, 3, 5, 5)
    assert B_bar.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            one_A, one_B = ours(A, B, dt[i, j].item())
            torch.testing.assert_close(A_bar[i, j], one_A, rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(B_bar[i, j], one_B, rtol=1e-13, atol=1e-13)


def test_a_step_of_no_time_changes_nothing():
    A, B = LegT(1.0).dynamics(5)
    for ours, _ in METHODS.values():
        A_bar, B_bar = ours(A, B, 0.0)
        assert torch.equal(A_bar, torch.eye(5))
        assert torch.equal(B_bar, torch.zeros(5))


@pytest.mark.parametrize(("alpha", "order_of_convergence"), [(0.0, 1), (0.3, 1), (0.5, 2), (1.0, 1)])
def test_the_generalized_bilinear_transform_converges_at_its_order(alpha, order_of_convergence):
    """The input is taken where the transform takes the state, (1 − α) f_k + α f_{k+1}; anything else is first order."""
    A, B = LegT(1.0).dynamics(4)
    # sin 3t and cos 3t are states too, which makes the reference one matrix exponential.
    whole = torch.zeros(6, 6)
    whole[:4, :4], whole[:4, 4], whole[4, 5], whole[5, 4] = A, B, 3.0, -3.0
    c_0 = torch.randn(4)
    exact = torch.linalg.matrix_exp(whole) @ torch.cat([c_0, torch.tensor([0.0, 1.0])])

    errors = []
    for steps in (200, 400, 800):
        A_bar, B_bar = discretize.gbt(A, B, 1 / steps, alpha)
        f = torch.sin(3 * torch.linspace(0, 1, steps + 1))
        c = c_0
        for before, after in itertools.pairwise(f):
            c = A_bar @ c + B_bar * ((1 - alpha) * before + alpha * after)
        errors.append((c - exact[:4]).norm().item())
    rates = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert rates == pytest.approx([order_of_convergence] * 2, abs=0.1)


def test_the_zero_order_hold_is_exact_for_a_piecewise_constant_input():
    A, B = LegT(1.0).dynamics(8)
    lengths, f = torch.tensor([0.3, 0.05, 0.5, 0.15]), torch.randn(4)
    c = torch.zeros(8)
    for dt, f_k in zip(lengths, f, strict=True):
        A_bar, B_bar = discretize.zoh(A, B, dt)
        c = A_bar @ c + B_bar * f_k

    nodes, weights = np.polynomial.legendre.leggauss(40)
    ends = torch.cumsum(lengths, 0)
    exact = torch.zeros(8)
    for end, length, f_k in zip(ends, lengths, f, strict=True):
        times = end - length + length * torch.from_numpy(nodes + 1) / 2
        kernel = torch.from_numpy(expm(((ends[-1] - times)[:, None, None] * A).numpy())) @ B
        exact += f_k * length * torch.from_numpy(weights / 2) @ kernel
    torch.testing.assert_close(c, exact, rtol=1e-12, atol=1e-12)


def test_the_zero_order_hold_of_a_pure_integrator_integrates():
    A_bar, B_bar = discretize.zoh(torch.zeros(2, 2), torch.tensor([1.0, 2.0]), 0.25)
    torch.testing.assert_close(A_bar, torch.eye(2))
    torch.testing.assert_close(B_bar, torch.tensor([0.25, 0.5]))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        discretize.gbt(*LegS().dynamics(3), 0.1, alpha)


def test_legs_loses_the_energy_of_what_it_misses():
    """d(t‖c‖²)/dt = f² − (f − f̂(t))² for every c and f, since A + Aᵀ = −I − BBᵀ."""
    A, B = LegS().dynamics(40)
    torch.testing.assert_close(A + A.mT, -torch.eye(40) - torch.outer(B, B), rtol=1e-14, atol=1e-13)


def energies(discretization, order=64, count=500, length=40):
    """‖c_k‖² of LegS on white noise, and what bounds it: the mean of f² so far, and f_0² + Σ f_j²/j."""
    f = torch.randn(count, length)
    numbers = torch.arange(length, dtype=torch.float64)
    energy = HiPPO("legs", order, discretization)(f)[0].square().sum(-1)
    return energy, f.square().cumsum(1) / (numbers + 1), (f.square() / numbers.clamp(min=1)).cumsum(1)


@pytest.mark.parametrize("discretization", ["zoh", "backward_euler"])
def test_the_squared_norm_is_at_most_the_energy_under_the_hold_and_backward_euler(discretization):
    energy, mean, _ = energies(discretization)
    assert (energy <= mean * (1 + 1e-12)).all()


def test_the_squared_norm_is_the_energy_remembered_under_the_hold():
    """As many coefficients as suffice for a signal that is constant between samples remember nearly all of it."""
    energy, mean, _ = energies("zoh", order=256, count=20, length=10)
    assert (energy[:, -1] / mean[:, -1]).min() > 0.97
    memory, x = HiPPO("legs", 20, "zoh"), torch.linspace(0, 1, 20_001)
    coefficients = memory.remember(torch.randn(3, 10)).coefficients
    read = memory.reconstruct(coefficients, x)
    torch.testing.assert_close(coefficients.square().sum(-1), torch.trapezoid(read.square(), x), rtol=1e-5, atol=0)


@pytest.mark.parametrize("discretization", ["bilinear", 0.75])
def test_the_squared_norm_is_bounded_by_a_harmonic_sum_for_every_other_implicit_rule(discretization):
    energy, _, harmonic = energies(discretization)
    assert (energy <= harmonic * (1 + 1e-12)).all()


def test_the_squared_norm_exceeds_the_energy_under_the_bilinear_rule():
    """On white noise; of a smooth signal it is the energy, up to the error of the step."""
    energy, mean, _ = energies("bilinear")
    assert energy[:, 10].mean() > 1.4 * mean[:, 10].mean()
    assert (energy / mean).max() > 2.9
    smooth = torch.sin(torch.linspace(0, 12, 2000)).unsqueeze(0)
    kept = HiPPO("legs", 64).remember(smooth).coefficients.square().sum()
    assert kept.item() == pytest.approx(smooth.square().mean().item(), rel=1e-3)


@pytest.mark.parametrize("discretization", ["bilinear", "zoh", "backward_euler"])
@pytest.mark.parametrize("measure", [LegT(20.0), FouT(20.0), LagT(20.0), LagT(20.0, beta=0.0)], ids=str)
def test_the_squared_norm_of_a_sliding_memory_is_at_most_the_energy_of_all_samples(measure, discretization):
    A, B = measure.dynamics(32)
    assert torch.linalg.eigvalsh((A + A.mT) * 20 + torch.outer(B, B) * 400).max() < 1e-10
    f = torch.randn(300, 60)
    energy = HiPPO(measure, 32, discretization)(f)[0].square().sum(-1)
    assert (energy <= f.square().cumsum(1) / 20 * (1 + 1e-12)).all()


@pytest.mark.parametrize("measure", [ChebT(20.0), LagT(20.0, alpha=0.5, beta=0.5)], ids=str)
def test_other_sliding_memories_break_that_bound(measure):
    f = torch.randn(300, 60)
    energy = HiPPO(measure, 32, "zoh")(f)[0].square().sum(-1)
    assert (energy > f.square().cumsum(1) / 20).any()
