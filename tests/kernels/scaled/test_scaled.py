"""Memories of all the past and their readouts: both forms against the recurrence as it is written."""

import math

import pytest
import torch
from scipy.linalg import expm

from hippo import discretize
from hippo.kernels import compiled, scaled
from hippo.kernels.scaled import naive
from hippo.measures import LegS
from hippo.weighted import Scaled

pytestmark = pytest.mark.usefixtures("float64")

FORMS = [scaled, naive] if compiled() else [naive]
every_form = pytest.mark.parametrize("form", FORMS, ids=[form.__name__.rpartition(".")[2] for form in FORMS])
every_rule = pytest.mark.parametrize(
    ("power", "alpha"), [(0.0, 0.5), (0.0, None), (0.7, 1.0), (0.7, None), (-0.5, 0.5), (-0.5, None)]
)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def a_problem(batch=5, length=61, features=3, order=6, shared=False, dense=False):
    step = torch.rand(length, 1 if shared else batch, dtype=torch.float64)
    step[4], step[9:11] = 1.0, 0.0
    x, state = torch.randn(batch, length, features), torch.randn(batch, features, order)
    C = torch.randn(4, features, order) if dense else torch.randn(features, order)
    return x.requires_grad_(), state.requires_grad_(), step, C.requires_grad_()


def as_written(x, state, step, C, power, alpha):
    """Sample by sample, with dense matrices made from those of the measure."""
    measure = Scaled(begin=power)
    A, B = measure.dynamics(state.shape[-1])
    outputs = []
    for x_k, delta in zip(x.unbind(1), step.expand(-1, len(x)), strict=True):
        rows = []
        for b, d in enumerate(delta):
            if d == 1 and alpha is None:  # everything older is forgotten
                A_bar, B_bar = torch.zeros_like(A), -torch.linalg.solve(A, B)
            elif alpha is None:
                A_bar, B_bar = discretize.zoh(A, B, -math.log1p(-d))
            else:
                A_bar, B_bar = discretize.gbt(A, B, d, alpha)
            rows.append(state[b] @ A_bar.mT + x_k[b].unsqueeze(-1) * B_bar)
        state = torch.stack(rows)
        outputs.append(torch.einsum("bhn,hn->bh" if C.dim() == 2 else "bhn,rhn->br", state, C))
    return torch.stack(outputs, dim=1), state


def results(function, problem, *rule):
    y, after = function(*problem, *rule)
    loss = (y * y.detach().cos()).sum() + (after * after.detach().sin()).sum()
    return y, after, torch.autograd.grad(loss, [problem[0], problem[1], problem[3]])


@every_rule
@every_form
@pytest.mark.parametrize("dense", [False, True], ids=["own", "dense"])
def test_outputs_coefficients_and_gradients_are_those_of_the_recurrence(form, power, alpha, dense):
    for shared in (False, True):
        problem = a_problem(shared=shared, dense=dense)
        actual, expected = (results(function, problem, power, alpha) for function in (form.read, as_written))
        torch.testing.assert_close(actual, expected, **CLOSE)


@every_rule
def test_what_is_remembered_and_its_gradients_are_the_state_that_reading_ends_in(power, alpha):
    for shared in (False, True):
        x, state, step, C = a_problem(shared=shared)
        found = [scaled.remember(x, state, step, power, alpha), scaled.read(x, state, step, C, power, alpha)[1]]
        torch.testing.assert_close(*found, **CLOSE)
        gradients = [torch.autograd.grad((after * after.detach().sin()).sum(), [x, state]) for after in found]
        torch.testing.assert_close(*gradients, **CLOSE)


@every_rule
@every_form
def test_gradients_are_those_of_finite_differences(form, power, alpha):
    x, state, step, C = a_problem(batch=2, length=31 if form is scaled else 12, features=1, order=3)
    step[5:] = 0.1 * step[5:]  # else nothing is left of the first samples
    assert torch.autograd.gradcheck(lambda x, c, C: form.read(x, c, step, C, power, alpha), (x, state, C))


@pytest.mark.parametrize("threads", [1, 2])
def test_sequences_in_groups_and_threads_are_those_alone(threads):
    problem = x, state, step, C = a_problem(batch=37, length=30, features=17, order=4, shared=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y, after, (to_x, to_state, to_C) = results(scaled.read, problem, 0.0, 0.5)
    finally:
        torch.set_num_threads(before)
    parts = [results(scaled.read, (x[b : b + 1], state[b : b + 1], step, C), 0.0, 0.5) for b in range(37)]
    torch.testing.assert_close(y, torch.cat([part[0] for part in parts]), **CLOSE)
    torch.testing.assert_close(after, torch.cat([part[1] for part in parts]), **CLOSE)
    torch.testing.assert_close(to_C, sum(part[2][2] for part in parts), **CLOSE)
    assert to_x.shape == x.shape
    assert to_state.shape == state.shape


@pytest.mark.parametrize("dense", [False, True], ids=["own", "dense"])
@every_form
def test_the_coefficients_of_all_samples_are_never_held(form, dense):
    problem, kept = a_problem(batch=2, length=400, features=4, order=32, shared=True, dense=dense), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        form.read(*problem, 0.0, 0.5)
    assert 0 < sum(kept) < 2 * 400 * 4 * 32 / 4


@every_form
def test_a_step_of_zero_leaves_coefficients_as_they_are_to_the_last_bit(form):
    x, state, step, C = a_problem(length=7)
    for alpha in (0.5, None):
        assert torch.equal(form.read(x, state, 0 * step, C, 0.0, alpha)[1], state)


@every_form
def test_single_precision_keeps_what_its_digits_can(form, relative_error):
    step = (1 / torch.arange(2, 602, dtype=torch.float64)).unsqueeze(1)
    x, state, _, C = (v.detach() for v in a_problem(batch=3, length=600, features=8, order=32))
    for alpha in (0.5, None):
        exact = form.read(x, state, step, C, 0.0, alpha)
        single = form.read(x.float(), state.float(), step, C.float(), 0.0, alpha)
        assert single[0].dtype == torch.float32
        assert relative_error(single[0], exact[0]) < 1e-4
        assert relative_error(single[1], exact[1]) < 1e-4


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 3.5])
def test_integrals_of_the_polynomials_are_the_first_column_of_a_dilation(power, relative_error):
    s = torch.tensor([[0.0, 1e-3, 0.3], [0.9, 0.999, 1.0]])
    for order in (1, 2, 40):
        found, dilations = naive.integrals(order, s, power), scaled.dilation(order, 1 - s, power)
        assert relative_error(found, dilations[..., 0]) < 1e-12
        assert torch.equal(found[1, 2], torch.eye(1, order)[0])
        assert relative_error(dilations, naive.dilation(order, 1 - s, power)) < 1e-13
        assert torch.equal(dilations[1, 2], torch.eye(order))
        assert torch.equal(naive.dilation(order, 1 - s, power)[1, 2], torch.eye(order))


def test_what_is_held_in_parts_is_the_whole(monkeypatch):
    x, state, step, _ = (v.detach() for v in a_problem())
    for steps in (step, step[:, :1]):
        whole = scaled.remember(x, state, steps, 0.7, None)
        with monkeypatch.context() as patch:
            patch.setattr(naive, "_NUMBERS", 100)
            torch.testing.assert_close(scaled.remember(x, state, steps, 0.7, None), whole, **CLOSE)


def test_a_dilation_is_the_exact_step():
    steps = torch.tensor([0.0, 1e-3, 0.4, 0.999, 1.0])
    for order, bound in ((30, 1e-12), (64, 1e-9)):
        A, _ = LegS().dynamics(order)
        exact = [torch.from_numpy(expm((-A * math.log1p(-step)).numpy())) for step in steps[:-1].tolist()]
        torch.testing.assert_close(
            scaled.dilation(order, steps), torch.stack([*exact, torch.zeros_like(A)]), rtol=0, atol=bound
        )
