"""Memories in any functions: against LegS, LegT and FouT, and against projection by quadrature."""

import math

import numpy as np
import pytest
import torch

from hippo import HiPPO
from hippo.frames import Sampled, ScaledFrame, SlidingFrame, daubechies
from hippo.measures import FouT, LegS, LegT

pytestmark = pytest.mark.usefixtures("float64")


def legendre(order, s):
    return LegS().basis(order, s, 1.0)


def fourier(order, s):
    return FouT(1.0).basis(order, s, 1.0)


def gabor(order, s):
    """Waves of three frequencies under each of N/3 Gaussians."""
    centre, frequency = (torch.arange(order) // 3 + 0.5) / (order // 3), torch.arange(order) % 3
    away = s.unsqueeze(-1) - centre.to(s)
    return torch.exp(-((away * order / 3) ** 2)) * torch.cos(2 * math.pi * frequency.to(s) * away * order / 6)


def close(one, other, tolerance=1e-11):
    return (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("order", [1, 2, 33, 256])
@pytest.mark.parametrize(
    ("frame", "known"),
    [
        (ScaledFrame(legendre), LegS()),
        (SlidingFrame(3.0, legendre), LegT(3.0)),
        (SlidingFrame(3.0, fourier, periodic=True), FouT(3.0)),
    ],
    ids=["LegS", "LegT", "FouT"],
)
def test_known_functions_give_known_memories(frame, known, order):
    for one, other in zip(frame.dynamics(order), known.dynamics(order), strict=True):
        assert close(one, other)
    times = torch.linspace(2.1, 5.0, 50)
    assert close(frame.basis(order, times, 5.0), known.basis(order, times, 5.0), 1e-9)


def projected(functions, order, f):
    """∫ f F_n ds by quadrature between the kinks."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    pieces = getattr(functions, "pieces", 512)
    s = ((torch.arange(pieces).unsqueeze(-1) + (x + 1) / 2) / pieces).flatten()
    return (functions(order, s) * (f(s) * (w / 2 / pieces).repeat(pieces)).unsqueeze(-1)).sum(0)


def wave(s):
    return torch.sin(5 * s) + 0.3 * torch.cos(11 * s)


def errors(functions, order, sliding):
    """How far online coefficients of the window [1, 2], or of all the past [0, 2], are from the integrals that define
    them, and what is read back from the signal; each as a share of the largest."""
    measure = SlidingFrame(1.0, functions) if sliding else ScaledFrame(functions)
    memory = HiPPO(measure, order, discretization="zoh")
    times = torch.linspace(0, 2, 801)[1:]
    state = memory.remember(wave(times - 0.00125).unsqueeze(0), times.unsqueeze(0))
    oldest, newest = measure.window(2.0)
    exact = projected(functions, order, lambda s: wave(oldest + (newest - oldest) * s))
    s = torch.linspace(0, 1, 60)
    read = memory.reconstruct(state.coefficients[0], s)
    far = state.coefficients[0] - exact
    return far.abs().max() / exact.abs().max(), (read - wave(oldest + (newest - oldest) * s)).abs().max() / 1.3


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("vanishing", "bounds"), [(2, (5e-3, 3e-2)), (4, (2e-3, 3e-3))])
def test_coefficients_are_those_of_the_past(vanishing, bounds, sliding):
    coarse, fine = (errors(daubechies(vanishing, order), order, sliding) for order in (24, 48))
    assert all(one <= bound for one, bound in zip(fine, bounds, strict=True))
    assert all(one < other / 3 for one, other in zip(fine, coarse, strict=True))  # what leaves the span vanishes


@pytest.mark.parametrize("sliding", [False, True])
def test_functions_that_are_no_basis_serve(sliding):
    coarse, fine = (errors(gabor, order, sliding)[0] for order in (12, 48))
    assert fine < coarse / 2


def test_what_was_constant_for_ever_is_held_from_the_first_sample():
    memory = HiPPO(ScaledFrame(daubechies(3, 16)), 16, discretization="zoh")
    state = memory.remember(torch.full((1, 1), 2.5))
    read = memory.reconstruct(state.coefficients, torch.linspace(0, 1, 20))
    assert (read - 2.5).abs().max() < 1e-3


def test_a_periodic_frame_without_its_factor_of_two_is_far_off():
    """Lineage of the factor: a series is the mean of its two ends where the window closes on itself."""
    errors = []
    for periodic in (False, True):
        memory = HiPPO(SlidingFrame(1.0, fourier, periodic=periodic), 33, discretization="zoh")
        times = torch.linspace(0, 3, 1201)[1:]
        state = memory.remember(wave(times - 0.00125).unsqueeze(0), times.unsqueeze(0))
        exact = projected(fourier, 33, lambda s: wave(2 + s))
        errors.append((state.coefficients[0] - exact).abs().max())
    assert errors[0] > 0.1 > 0.03 > errors[1]


def test_redundant_functions_hold_what_independent_ones_hold():
    def twice(order, s):
        half = legendre(order // 2, s)
        return torch.cat([half, half * 0.5], dim=-1)

    s = torch.linspace(0, 1, 50)
    frame = ScaledFrame(twice)
    once, both = (HiPPO(m, n, discretization="zoh") for m, n in ((LegS(), 8), (frame, 16)))
    signal = torch.sin(torch.arange(200) / 30).unsqueeze(0)
    one, other = (m.reconstruct(m.remember(signal).coefficients, s) for m in (once, both))
    assert close(other, one, 1e-8)


def test_samples_stand_for_straight_lines():
    """A hat, 4s and then 3 − 2s, and 1: A = −1 − ∫ s F' Fᵀ G⁻¹ by hand."""
    samples = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    values = Sampled(samples)(2, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert values[:, 0].tolist() == [0.0, 1.0, 2.0, 1.5, 1.0]
    A, B = ScaledFrame(Sampled(samples)).dynamics(2)
    gram = torch.tensor([[2 / 3 + 7 / 6, 1 / 2 + 3 / 4], [5 / 4, 1.0]])
    # Over the first half ∫ s 4 (4s, 1) = (2/3, 1/2), over the second ∫ s (−2) (3 − 2s, 1) = (−13/12, −3/4).
    stretched = torch.tensor([[2 / 3 - 13 / 12, 1 / 2 - 3 / 4], [0.0, 0.0]])
    assert close(A, -torch.eye(2) - stretched @ torch.linalg.inv(gram))
    assert B.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("vanishing", [1, 2, 5, 10])
def test_daubechies_translates_are_orthonormal_and_hold_polynomials(vanishing):
    from hippo.frames import _filter

    h = _filter(vanishing)
    for shift in range(vanishing):
        assert abs((h[: len(h) - 2 * shift] * h[2 * shift :]).sum() - (shift == 0)) < 1e-7
    k = np.arange(2 * vanishing)
    for power in range(vanishing):
        assert abs(((-1.0) ** k * k**power * h).sum()) < 1e-5 * (2.0 * vanishing) ** power


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: daubechies(2, 2), "more than 2p - 2 functions"),
        (lambda: daubechies(11, 50), "2 to 10"),
        (lambda: daubechies(1, 8), "2 to 10"),
        (lambda: SlidingFrame(1.0), "needs its functions"),
        (lambda: Sampled(torch.tensor([[1.0]])), "places"),
        (lambda: ScaledFrame(daubechies(2, 8)).dynamics(9), "the order is that"),
        (lambda: ScaledFrame(lambda n, s: s).dynamics(3), "finite float64 numbers"),
        (lambda: SlidingFrame(1.0, legendre, periodic=True).dynamics(3), "one value at both ends"),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
