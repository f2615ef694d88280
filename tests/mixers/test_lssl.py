"""LSSL-f against the dense bilinear state space that it is."""

import pytest
import torch

from hippo.discretize import bilinear
from hippo.measures import LegS, LegT
from hippo.mixers import LSSL

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(("measure", "window"), [(LegS(), "legs"), (LegT(0.5), LegT(0.5))], ids=["legs", "legt"])
def test_the_kernel_is_that_of_the_dense_state_space_with_steps_even_in_their_logarithms(measure, window):
    order = 16
    layer = LSSL(3, state_size=order, measure=window, steps=(1e-3, 1e-1))
    for feature, step in enumerate((1e-3, 1e-2, 1e-1)):
        for rate in (1.0, 2.5):
            A, state = bilinear(*measure.dynamics(order), rate * step)
            expected = []
            for _ in range(100):
                expected.append(layer.C[feature] @ state)
                state = A @ state
            expected[0] = expected[0] + layer.D[feature]
            torch.testing.assert_close(layer.kernel(100, rate)[feature], torch.stack(expected), rtol=1e-11, atol=1e-12)


def test_readouts_alone_are_learnt():
    assert {name for name, _ in LSSL(3, state_size=4).named_parameters()} == {"C", "D"}


def test_in_single_precision_kernel_and_steps_agree(relative_error):
    torch.set_default_dtype(torch.float32)
    layer, state, steps = LSSL(4, state_size=64), None, []
    impulse = torch.zeros(1, 256, 4)
    impulse[:, 0] = 1.0
    with torch.no_grad():
        for x in impulse.unbind(1):
            y, state = layer.step(x, state)
            steps.append(y[0])
        assert relative_error(torch.stack(steps, dim=1), layer.kernel(256)) < 1e-5


@pytest.mark.parametrize("settings", [{"state_size": 0}, {"measure": "lagt"}, {"steps": (1.0, 0.1)}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=r"state_size|measure|steps"):
        LSSL(2, **settings)
