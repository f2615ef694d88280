"""Measures as a normal matrix less one of low rank."""

import pytest
import torch

from hippo.measures import ChebT, FouT, LegS, LegT
from hippo.mixers.spectra import spectrum

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("order", [4, 16, 64])
@pytest.mark.parametrize(("measure", "rank"), [(LegS(), 1), (LegT(1.0), 2), (FouT(3.0), 1)])
def test_the_parts_add_up_to_the_measures_dynamics(measure, rank, order):
    A, B = measure.dynamics(order)
    eigenvalues, V, P, driven = spectrum(measure, order)
    assert P.shape == (rank, order // 2)
    low_rank = 2 * (V @ P.mT).real
    torch.testing.assert_close(2 * (V * eigenvalues @ V.mH).real - low_rank @ low_rank.mT, A, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(2 * (V @ driven).real, B, rtol=1e-12, atol=1e-11)
    both = torch.cat([V, V.conj()], dim=1)
    torch.testing.assert_close(both.mH @ both, torch.eye(order).to(both), rtol=0, atol=1e-12)


def test_low_rank_and_real_part_of_legs_are_those_of_the_paper():
    eigenvalues, V, P, _ = spectrum("legs", 8)
    torch.testing.assert_close((2 * (V @ P[0]).real).abs(), torch.sqrt(torch.arange(8) + 0.5))
    torch.testing.assert_close(eigenvalues.real, torch.full((4,), -0.5))


@pytest.mark.parametrize(("measure", "order"), [("legs", 7), ("laguerre", 8), (ChebT(1.0), 8)])
def test_what_has_no_such_form_is_refused(measure, order):
    with pytest.raises(ValueError, match=r"even|unknown measure|low rank"):
        spectrum(measure, order)
