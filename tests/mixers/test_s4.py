"""S4 against the dense bilinear state space that it is a fast form of."""

import pytest
import torch

from hippo.discretize import bilinear
from hippo.measures import FouT, LegS, LegT
from hippo.mixers import S4
from hippo.mixers.spectra import spectrum

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("length", [15, 16])
@pytest.mark.parametrize(
    ("name", "measure", "floor"), [("legs", LegS(), 0.0), ("legt", LegT(1.0), 1e-4), ("fout", FouT(1.0), 1e-4)]
)
def test_the_kernel_is_that_of_the_measures_dense_dynamics(name, measure, floor, length):
    order, longest = 8, 3 * length
    layer = S4(3, state_size=order, measure=name, length=length)
    A, B = measure.dynamics(order)
    A = A - floor * torch.eye(order)  # eigenvalues on the imaginary axis begin a little beside it
    V = spectrum(name, order).vectors
    truncated = 2 * (torch.view_as_complex(layer.C.detach()) @ V.mH).real  # C̃ in the measure's basis
    for feature, step in enumerate(torch.exp(layer.log_step.detach())):
        A_, B_ = bilinear(A, B, step)
        rest = torch.eye(order) - torch.linalg.matrix_power(A_, length)
        C = torch.linalg.solve(rest.mT, truncated[feature])
        expected = torch.stack([C @ torch.linalg.matrix_power(A_, k) @ B_ for k in range(longest)])
        expected[0] += layer.D[feature].detach()
        for reach in (length, length - 3, longest):
            torch.testing.assert_close(layer.kernel(reach)[feature], expected[:reach], rtol=1e-8, atol=1e-8)


def test_at_its_published_size_the_kernel_is_that_of_the_dense_recurrence():
    layer = S4(2, state_size=64, length=256, steps=(0.01, 0.01))
    A, B, C = layer._dense(1.0)
    powers, state = [], B
    for _ in range(256):
        powers.append((C * state).sum(-1))
        state = (A @ state.unsqueeze(-1)).squeeze(-1)
    expected = torch.stack(powers, dim=1)
    expected[:, 0] += layer.D
    torch.testing.assert_close(layer.kernel(256), expected, rtol=1e-9, atol=1e-9)


def test_what_is_learnt_is_the_truncated_readout_and_not_the_readout():
    layer = S4(2, state_size=8, length=50)
    A, _, C = layer._dense(1.0)
    rest = torch.eye(8) - torch.linalg.matrix_power(A, 50)
    learnt = torch.view_as_complex(layer.C)
    torch.testing.assert_close((C.unsqueeze(1) @ rest).squeeze(1), 2 * torch.cat([learnt.real, -learnt.imag], dim=-1))


@pytest.mark.parametrize("name", ["legs", "legt", "fout"])
def test_in_single_precision_kernel_and_steps_agree_to_1e_3_of_the_kernel(name):
    torch.set_default_dtype(torch.float32)
    layer = S4(4, state_size=64, measure=name, length=256)
    impulse = torch.zeros(1, 256, 4)
    impulse[:, 0] = 1.0
    with torch.no_grad():
        kernel, state, steps = layer.kernel(256), None, []
        for x in impulse.unbind(1):
            y, state = layer.step(x, state)
            steps.append(y[0])
        error = (kernel - torch.stack(steps, dim=1)).abs().max() / kernel.abs().max()
    assert error < 1e-3


@pytest.mark.parametrize("settings", [{"state_size": 5}, {"length": 0}, {"measure": "lagt"}, {"steps": (1.0, 0.1)}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"even|length|measure|steps"):
        S4(2, **settings)
