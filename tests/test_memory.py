import contextlib
import inspect
import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.utils.flop_counter
from torch.autograd import forward_ad

from hippo import HiPPO, State, discretize, kernels, transitions
from hippo.kernels import lti, scaled
from hippo.kernels.common import native
from hippo.kernels.legs import cpu, naive, wavefront
from hippo.measures import LMU, ChebT, FouT, JacS, LagT, LegS, LegT, Rand
from hippo.models import GRU, Stack
from hippo.transitions import Transition
from hippo.weighted import Scaled

pytestmark = pytest.mark.usefixtures("float64")

EVERY_KIND = [
    pytest.param(measure, discretization, id=f"{name}-{discretization}")
    for name, measure in (("legs", LegS()), ("legt", LegT(20.0)))
    for discretization in ("bilinear", "backward_euler", 0.3, "zoh")
] + [
    pytest.param(measure, "bilinear", id=f"{type(measure).__name__}-bilinear")
    for measure in (ChebT(20.0), FouT(20.0), LagT(7.0), LMU(20.0), Rand(20.0))
]
every_kind = pytest.mark.parametrize(("measure", "discretization"), EVERY_KIND)


def constant_past(measure, order):
    """The coefficients of a translated measure for what has been 1 for ever, where dc/dt = A c + B is at rest."""
    A, B = measure.dynamics(order)
    if isinstance(measure, FouT) and order % 2 == 0:  # the last number is always 0
        return torch.cat([torch.linalg.solve(-A[:-1, :-1], B[:-1]), torch.zeros(1)])
    return torch.linalg.solve(-A, B)


def irregular_times(*shape):
    """Increasing times that start above 0, of shape (B, L)."""
    return torch.cumsum(torch.rand(*shape) + 0.05, dim=-1)


def quadrature(oldest, newest, nodes=60):
    """Nodes and weights that integrate dx from `oldest` to `newest`, tensors of equal shape (...): (..., nodes)."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
    half = ((newest - oldest) / 2).unsqueeze(-1)
    return oldest.unsqueeze(-1) + half * (x + 1), half * w


def interval_weights(edges, order):
    """(1/t) ∫ g_n(t, x) dx over each interval between edges (L + 1,), at t = edges[-1]: (L, N)."""
    x, w = quadrature(edges[:-1], edges[1:])
    return torch.einsum("lq,lqn->ln", w, LegS().basis(order, x, edges[-1].item())) / edges[-1]


def projection(f, order, now=1.0, measure=None):
    """Coefficients of a function on the window at `now`, by quadrature."""
    measure = measure or LegS()
    oldest, newest = (torch.tensor(v) for v in measure.window(now))
    x, w = quadrature(oldest, newest, nodes=200)
    return (w / (newest - oldest) * f(x)) @ measure.basis(order, x, now)


# What the memory holds: the closed form, the recurrence, the order of convergence.


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("order", [1, 2, 33])
def test_zero_order_hold_coefficients_are_the_projection_of_the_staircase(order, timed, relative_error):
    signal = torch.randn(2, 40)
    times = irregular_times(2, 40) if timed else torch.arange(1.0, 41.0).expand(2, -1)
    c, _ = HiPPO("legs", order, "zoh")(signal, times if timed else None)
    for b in range(2):
        for k in (0, 1, 2, 17, 39):
            edges = torch.cat([torch.zeros(1), times[b, : k + 1]])
            assert relative_error(c[b, k], signal[b, : k + 1] @ interval_weights(edges, order)) < 1e-12


def test_at_order_one_the_zero_order_hold_is_the_running_mean():
    signal = torch.randn(3, 200)
    c, _ = HiPPO("legs", 1, "zoh")(signal)
    torch.testing.assert_close(c[..., 0], signal.cumsum(1) / torch.arange(1, 201), rtol=1e-12, atol=1e-12)


def test_at_order_one_and_irregular_times_it_is_the_time_weighted_mean():
    signal, times = torch.randn(3, 50), irregular_times(3, 50)
    c, _ = HiPPO("legs", 1, "zoh")(signal, times)
    lasted = torch.diff(times, dim=1, prepend=torch.zeros(3, 1))
    torch.testing.assert_close(c[..., 0], (signal * lasted).cumsum(1) / times, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("order", [1, 8, 40])
@every_kind
def test_the_memory_equals_the_dense_recurrence(measure, discretization, order, timed, relative_error):
    signal, length = torch.randn(2, 30), 30
    regular = torch.arange(length) + (0.0 if measure.scale_invariant and discretization != "zoh" else 1.0)
    times = irregular_times(2, length) if timed else regular.expand(2, -1)
    c, _ = HiPPO(measure, order, discretization)(signal, times if timed else None)

    A, B = measure.dynamics(order)
    before = torch.cat([torch.zeros(2, 1), times[:, :-1]], dim=1)
    if discretization == "zoh":
        A_bar, B_bar = discretize.zoh(A, B, torch.log(times / before) if measure.scale_invariant else times - before)
    else:
        alpha = {"bilinear": 0.5, "backward_euler": 1.0}.get(discretization, discretization)
        A_bar, B_bar = discretize.gbt(A, B, (times - before) / (times if measure.scale_invariant else 1), alpha)
    expected = torch.zeros(2, order)
    for k in range(length):
        if k == 0 and measure.scale_invariant:
            expected[:, 0] = signal[:, 0]
        elif k == 0 and timed:
            expected = signal[:, :1] * constant_past(measure, order)
        else:
            expected = torch.einsum("bij,bj->bi", A_bar[:, k], expected) + B_bar[:, k] * signal[:, k : k + 1]
        assert relative_error(c[:, k], expected) < 1e-11


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["none", "own", "paused"])
@pytest.mark.parametrize("discretization", ["bilinear", 0.7, "zoh"])
@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 3.5])
def test_a_power_of_time_equals_the_dense_recurrence(
    power, discretization, kind, compiled, relative_error, monkeypatch
):
    if not compiled:
        monkeypatch.setattr(native, "refusal", lambda tensor: "so the test wants it")
    memory, signal = HiPPO(JacS(power), 9, discretization), torch.randn(2, 40, requires_grad=True)
    times = {"none": None, "own": irregular_times(2, 40), "paused": irregular_times(2, 40).clamp(max=12)}[kind]
    when = torch.arange(40.0).expand(2, -1) + (discretization == "zoh") if times is None else times
    A, B = memory.measure.dynamics(9)
    step = when.diff(dim=1) / when[:, 1:]
    if discretization == "zoh":
        A_bar, B_bar = discretize.zoh(A, B, -torch.log1p(-step))
    else:
        A_bar, B_bar = discretize.gbt(A, B, step, transitions.alpha(discretization))
    states = [torch.nn.functional.pad(signal[:, :1], (0, 8))]
    for k in range(39):
        moved = torch.einsum("bij,bj->bi", A_bar[:, k], states[-1]) + B_bar[:, k] * signal[:, k + 1 : k + 2]
        states.append(torch.where(step[:, k : k + 1] == 0, states[-1], moved))
    expected, upstream = torch.stack(states, dim=1), torch.randn(2, 40, 9)
    every, last = memory(signal, times)[0], memory.remember(signal, times).coefficients
    assert relative_error(every, expected) < 1e-12
    assert relative_error(last, expected[:, -1]) < 1e-12
    for found, truth, weight in ((every, expected, upstream), (last, expected[:, -1], upstream[:, -1])):
        gradients = [torch.autograd.grad((v * weight).sum(), signal, retain_graph=True)[0] for v in (found, truth)]
        assert relative_error(*gradients) < 1e-11
    timed = [None] * 40 if times is None else times.unbind(1)
    with torch.no_grad():
        state = memory.remember(signal[:, :20], None if times is None else times[:, :20])
        rest = memory.remember(signal[:, 20:], None if times is None else times[:, 20:], state=state)
        for k in range(20, 40):
            state = memory.step(signal[:, k], timed[k], state=state)
    assert relative_error(rest.coefficients, expected[:, -1]) < 1e-12
    assert relative_error(state.coefficients, expected[:, -1]) < 1e-12


@pytest.mark.parametrize("power", [-0.5, 1.0])
@pytest.mark.parametrize("discretization", ["bilinear", 0.7, "zoh"])
def test_a_power_of_time_has_the_gradients_of_finite_differences(power, discretization):
    memory, signal = HiPPO(JacS(power), 4, discretization), torch.randn(2, 6, requires_grad=True)
    for read in (lambda f: memory(f)[0], lambda f: memory.remember(f).coefficients):
        assert torch.autograd.gradcheck(read, signal)


def smooth(x):
    return torch.sin(5 * x) + torch.exp(-x)


@pytest.mark.parametrize("discretization", ["bilinear", "backward_euler", "zoh"])
def test_the_memory_of_a_smooth_signal_converges_to_its_projection_at_first_order(discretization):
    """Bilinear too: of (A c + B f)/t it takes 1/t and f at the step's end, as the paper does, so it is first order."""
    first = 1 if discretization == "zoh" else 0
    errors = []
    for length in (100, 200, 400):
        times = (torch.arange(length) + first) / (length - 1 + first)
        c, _ = HiPPO("legs", 8, discretization)(smooth(times)[None])
        errors.append((c[0, -1] - projection(smooth, 8)).norm().item())
    rates = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert rates == pytest.approx([1, 1], abs=0.05)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_a_sliding_window_remembers_the_latest_part_only(discretization):
    """Two signals that differ before the window leave the same memory, and it is the window's projection."""
    measure, order, steps = LegT(100.0), 16, 1000
    times = torch.arange(1.0, steps + 1)
    signal = torch.sin(times / 20)
    other = torch.where(times <= 700, torch.randn(steps), signal)
    c, _ = HiPPO(measure, order, discretization)(torch.stack([signal, other]))
    expected = projection(lambda x: torch.sin(x / 20), order, now=float(steps), measure=measure)
    assert (c[0, -1] - c[1, -1]).norm() < 1e-6
    assert (c[0, -1] - expected).norm() < 0.02


# Time: regular and irregular, chunked and whole, repeated and rescaled.


@pytest.mark.parametrize("channels", [(), (3,)], ids=["no channels", "channels"])
@pytest.mark.parametrize("timed", [False, True])
@every_kind
def test_whole_equals_chunked_equals_step_by_step(measure, discretization, timed, channels):
    memory = HiPPO(measure, 6, discretization)
    signal = torch.randn(2, 80, *channels)
    times = irregular_times(2, 80) if timed else None
    whole, last = memory(signal, times)
    assert whole.shape == (2, 80, *channels, 6)

    chunks, state = [], None
    for start, stop in ((0, 1), (1, 2), (2, 70), (70, 80)):
        c, state = memory(signal[:, start:stop], None if times is None else times[:, start:stop], state=state)
        chunks.append(c)
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-13)

    state = None
    for k in range(10):
        state = memory.step(signal[:, k], None if times is None else times[:, k], state=state)
        torch.testing.assert_close(state.coefficients, whole[:, k], rtol=1e-12, atol=1e-13)


@every_kind
def test_every_channel_has_a_memory_of_its_own(measure, discretization):
    signal, times = torch.randn(2, 30, 3), irregular_times(2, 30)
    together, _ = HiPPO(measure, 6, discretization)(signal, times)
    for channel in range(3):
        alone, _ = HiPPO(measure, 6, discretization)(signal[..., channel], times)
        torch.testing.assert_close(together[:, :, channel], alone, rtol=1e-12, atol=1e-13)


@every_kind
def test_timestamps_on_the_regular_grid_change_nothing(measure, discretization):
    """But that a memory of a translated measure starts full, of its first sample, and not empty."""
    memory, signal = HiPPO(measure, 6, discretization), torch.randn(2, 30, 2)
    first = 0.0 if measure.scale_invariant and discretization != "zoh" else 1.0
    if measure.scale_invariant:
        untimed, last = memory(signal)
    else:
        full = signal[:, 0].unsqueeze(-1) * constant_past(measure, 6)
        untimed, last = memory(signal[:, 1:], state=State(full, 1.0))
        untimed = torch.cat([full.unsqueeze(1), untimed], dim=1)
    timed, timed_last = memory(signal, (torch.arange(30) + first).expand(2, -1))
    torch.testing.assert_close(timed, untimed, rtol=1e-12, atol=1e-13)
    assert timed_last.time.tolist() == [last.time] * 2


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
@pytest.mark.parametrize("measure", [LegT(9.0), ChebT(9.0), FouT(9.0), LagT(3.0), LMU(9.0), Rand(9.0)], ids=str)
def test_a_translated_memory_does_not_see_the_origin_of_time(measure, discretization, relative_error):
    memory, signal, times = HiPPO(measure, 6, discretization), torch.randn(2, 20), irregular_times(2, 20)
    assert relative_error(memory(signal, times + 1e6)[0], memory(signal, times)[0]) < 1e-8


@pytest.mark.parametrize("measure", [LegT(9.0), ChebT(9.0), FouT(9.0), LagT(3.0)], ids=str)
def test_a_constant_is_remembered_from_its_first_sample_on(measure):
    memory, times = HiPPO(measure, 7, "zoh"), irregular_times(2, 20)
    c, state = memory(torch.full((2, 20), 3.0), times)
    torch.testing.assert_close(c, c[:, :1].expand_as(c), rtol=1e-11, atol=1e-11)
    now = float(state.time[0])
    read = memory.reconstruct(c[0, -1], torch.linspace(now - 2, now, 9), now=now)
    torch.testing.assert_close(read, torch.full((9,), 3.0), rtol=1e-9, atol=1e-9)


@every_kind
@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_batch_sampled_alike_may_end_at_different_times(measure, discretization, channels, relative_error):
    """Padding repeats the last timestamp, and the others go on."""
    memory, signal = HiPPO(measure, 9, discretization), torch.randn(3, 25, *channels)
    times, ends = irregular_times(1, 25).expand(3, -1).clone(), (24, 7, 0)
    for b, end in enumerate(ends):
        times[b, end:] = times[b, end]
    together, _ = memory(signal, times)
    for b, end in enumerate(ends):
        alone, _ = memory(signal[b : b + 1, : end + 1], times[b : b + 1, : end + 1])
        assert relative_error(together[b, : end + 1], alone[0]) < 1e-12
        assert (together[b, end:] == together[b, end]).all()


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
@pytest.mark.parametrize("measure", ["legs", LegT(7.7)])
def test_what_inference_keeps_serves_training(measure, discretization):
    """Matrices are kept from one sequence to the next; made in inference mode, they could not be trained through."""
    signal = torch.randn(1, 5)
    with torch.inference_mode():
        HiPPO(measure, 11, discretization)(signal, torch.arange(5.0).unsqueeze(0))
    signal.requires_grad_()
    HiPPO(measure, 11, discretization)(signal, torch.arange(5.0).unsqueeze(0))[0].sum().backward()
    assert signal.grad.abs().max() > 0


@every_kind
def test_a_timed_chunk_may_be_followed_by_one_without_timestamps(measure, discretization):
    memory, signal, times = HiPPO(measure, 6, discretization), torch.randn(2, 20, 3), irregular_times(2, 20)
    times[:, 10:] = times[:, 9:10] + torch.arange(1, 11)
    whole, last = memory(signal, times)
    _, state = memory(signal[:, :10], times[:, :10])
    rest, state = memory(signal[:, 10:], state=state)
    torch.testing.assert_close(rest, whole[:, 10:], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(state.time, last.time)


@pytest.mark.parametrize("discretization", ["euler", "bilinear", "backward_euler", 0.3, "zoh"])
@pytest.mark.parametrize("factor", [1e-3, 2.0, 365.25])
def test_legs_does_not_see_the_unit_of_time(discretization, factor, relative_error):
    memory, signal, times = HiPPO("legs", 4, discretization), torch.randn(2, 40), irregular_times(2, 40)
    assert relative_error(memory(signal, times * factor)[0], memory(signal, times)[0]) < 1e-12


def test_legt_sees_the_unit_of_time_relative_to_its_window(relative_error):
    signal, times = torch.randn(2, 40), irregular_times(2, 40)
    expected, _ = HiPPO(LegT(5.0), 6)(signal, times)
    assert relative_error(HiPPO(LegT(10.0), 6)(signal, times * 2)[0], expected) < 1e-12
    assert relative_error(HiPPO(LegT(5.0), 6)(signal, times * 2)[0], expected) > 0.1


@pytest.mark.parametrize("repeats", [2, 7])
def test_the_zero_order_hold_does_not_see_the_sampling_rate(repeats, relative_error):
    memory, signal = HiPPO("legs", 16, "zoh"), torch.randn(2, 30)
    coarse, fine = memory(signal)[0], memory(signal.repeat_interleave(repeats, dim=1))[0]
    assert relative_error(fine[:, repeats - 1 :: repeats], coarse) < 1e-12


@every_kind
def test_a_repeated_timestamp_leaves_the_memory_as_it_was(measure, discretization):
    memory, signal, times = HiPPO(measure, 40, discretization), torch.randn(2, 12), irregular_times(2, 12)
    times[:, 5:8], times[0, 10:] = times[:, 5:6], times[0, 10]
    c, _ = memory(signal, times)
    # A dilation by nothing is a quadrature: the identity up to rounding.
    precision = 1e-12 if discretization == "zoh" else 0.0
    torch.testing.assert_close(c[:, 6:8], c[:, 5:6].expand(-1, 2, -1), rtol=0, atol=precision)
    torch.testing.assert_close(c[0, 11], c[0, 10], rtol=0, atol=precision)
    assert not torch.allclose(c[1, 11], c[1, 10])


@every_kind
def test_each_sample_is_independent_of_its_batch_mates(measure, discretization):
    memory, signal = HiPPO(measure, 6, discretization), torch.randn(5, 12, 2)
    times = irregular_times(5, 12)
    times[0, :4] = 0.0  # begins at 0, more than once
    times[1] -= times[1, :1].clone()  # begins at 0
    times[2, 6:] = times[2, 5]  # padded
    times[3] = 3.0  # all at once
    together, state = memory(signal, times)
    assert together.isfinite().all()
    for b in range(5):
        alone, alone_state = memory(signal[b : b + 1], times[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(state.time[b], alone_state.time[0])


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_the_step_that_leaves_time_zero_is_a_relative_step_of_one(discretization):
    """A zero-order hold then forgets all that was; a bilinear step moves as the first one of an untimed signal does."""
    signal = torch.tensor([[3.0, 5.0, 7.0]])
    c, _ = HiPPO("legs", 4, discretization)(signal, torch.tensor([[0.0, 0.0, 2.0]]))
    torch.testing.assert_close(c[0, 1], torch.tensor([3.0, 0, 0, 0]))
    if discretization == "zoh":
        torch.testing.assert_close(c[0, 2], torch.tensor([7.0, 0, 0, 0]), rtol=0, atol=1e-13)
    else:
        torch.testing.assert_close(c[0, 2], HiPPO("legs", 4)(signal[:, [0, 2]])[0][0, 1], rtol=1e-14, atol=1e-14)


# Gradients.


def gradients(memory, length, at):
    """‖∂c(t)/∂f(s)‖ at the end of a signal, for each sample `at`, by differentiation."""
    signal = torch.zeros(1, length, requires_grad=True)
    last = memory(signal)[0][0, -1]
    rows = [torch.autograd.grad(c_n, signal, retain_graph=True)[0][0, at] for c_n in last]
    return torch.stack(rows).norm(dim=0)


def test_the_gradient_of_the_zero_order_hold_is_the_basis_integrated_over_the_interval(relative_error):
    length, order = 60, 12
    expected = interval_weights(torch.arange(length + 1.0), order).norm(dim=-1)
    assert relative_error(gradients(HiPPO("legs", order, "zoh"), length, torch.arange(length)), expected) < 1e-12


def test_the_gradient_of_the_bilinear_memory_follows_the_law_and_decays_as_one_over_t_only():
    order, fractions = 6, torch.tensor([0.05, 0.1, 0.25, 0.5, 0.75, 0.95])
    norms = []
    for length in (401, 801, 1601):
        now, at = length - 1, (fractions * (length - 1)).round().long()
        law = LegS().basis(order, at.to(torch.float64), now).norm(dim=-1) / now
        norms.append(gradients(HiPPO("legs", order), length, at))
        torch.testing.assert_close(norms[-1], law, rtol=0.02, atol=0)
    # Exponential decay would square the ratio each time that t doubles; here it stays at a half, for early samples too.
    torch.testing.assert_close(norms[1] / norms[0], torch.full((6,), 0.5), rtol=0.01, atol=0)
    torch.testing.assert_close(norms[2] / norms[1], torch.full((6,), 0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize("timed", [False, True])
@every_kind
def test_gradients_agree_with_finite_differences(measure, discretization, timed):
    memory = HiPPO(measure, 3, discretization)
    signal, c = torch.randn(2, 4, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    times = irregular_times(2, 4) + 5 if timed else None

    def outputs(signal, c):
        return memory(signal, times)[0], memory(signal, times, state=State(c, 5.0))[0]

    assert torch.autograd.gradcheck(outputs, (signal, c))


# Reading back.


@pytest.mark.parametrize(("measure", "now"), [(LegS(), 1.0), (LegS(), 6.0), (LegT(2.0), 5.0)])
def test_a_polynomial_of_degree_below_the_order_is_read_back_exactly(measure, now):
    def polynomial(x):
        return 1 - 2 * x + 0.5 * x**3

    memory, times = HiPPO(measure, 4), torch.linspace(*measure.window(now), 30)
    c = torch.stack([projection(f, 4, now, measure) for f in (polynomial, torch.ones_like)])
    expected = torch.stack([polynomial(times), torch.ones(30)])
    torch.testing.assert_close(memory.reconstruct(c, times, now=now), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_a_finely_sampled_polynomial_is_read_back_at_first_order(discretization):
    memory, times = HiPPO("legs", 4, discretization), torch.linspace(0, 1, 50)
    errors = []
    for length in (200, 400):
        x = torch.arange(1, length + 1) / length
        c, _ = memory((x - 3 * x**3)[None])
        errors.append((memory.reconstruct(c[0, -1], times) - (times - 3 * times**3)).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] < 0.03


def test_a_larger_order_reads_a_smooth_signal_back_better():
    x, times = torch.arange(1, 2001) / 2000, torch.linspace(0, 1, 200)
    errors = []
    for order in (2, 4, 8):
        memory = HiPPO("legs", order, "bilinear")
        c, _ = memory(torch.sin(8 * x)[None])
        errors.append((memory.reconstruct(c[0, -1], times) - torch.sin(8 * times)).square().mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 2 * 10 * errors[2]


def test_single_precision_memories_are_read_back_in_single_precision():
    memory = HiPPO("legs", 4)
    c, _ = memory(torch.randn(2, 10, dtype=torch.float32))
    assert c.dtype == torch.float32
    read = memory.reconstruct(c, torch.linspace(0, 1, 7))
    assert read.dtype == torch.float32
    assert read.shape == (2, 10, 7)


@pytest.mark.parametrize(
    ("measure", "times", "now"),
    [(LegS(), [-0.1, 0.5], 1.0), (LegS(), [0.5, 1.1], 1.0), (LegT(2.0), [0.9], 3.0), (LegS(), [math.nan], 1.0)],
)
def test_nothing_is_read_outside_the_window(measure, times, now):
    with pytest.raises(ValueError, match="window"):
        HiPPO(measure, 3).reconstruct(torch.ones(3), torch.tensor(times), now=now)


@pytest.mark.parametrize("measure", [LegS(), LegT(200.0), FouT(200.0)])
def test_without_a_time_the_window_is_read_in_fractions_of_itself(measure):
    signal = torch.arange(1000, dtype=torch.float64).unsqueeze(0) / 100
    memory = HiPPO(measure, 32)
    c, state = memory(signal)
    oldest, newest = measure.window(float(state.time))
    fractions = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    times = oldest + fractions * (newest - oldest)
    expected = memory.reconstruct(c[:, -1], times, now=float(state.time))
    torch.testing.assert_close(memory.reconstruct(c[:, -1], fractions), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(memory.reconstruct(state, times), expected, rtol=0, atol=0)
    assert (expected - times / 100).abs().max() < (0.5 if isinstance(measure, FouT) else 0.05)
    with pytest.raises(ValueError, match="has no beginning"):
        HiPPO(LagT(20.0), 32).reconstruct(c[:, -1], fractions)


def test_each_memory_is_read_at_its_own_time():
    signal, times = torch.randn(3, 40, dtype=torch.float64), torch.rand(3, 40, dtype=torch.float64).cumsum(1)
    memory = HiPPO("legs", 8)
    state = memory.remember(signal, timestamps=times)
    at = torch.linspace(0, 1, 5, dtype=torch.float64) * state.time.unsqueeze(1)
    read = memory.reconstruct(state, at)
    for k in range(3):
        alone = memory.reconstruct(state.coefficients[k], at[k], now=float(state.time[k]))
        torch.testing.assert_close(read[k], alone, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match="window"):
        memory.reconstruct(state, at + 0.1)


# Clocks.


@pytest.mark.parametrize("measure", [LegS(), LegT(50.0)])
def test_a_clock_that_began_long_before_the_signal_is_refused_or_right(measure):
    signal = torch.sin(torch.arange(500, dtype=torch.float64) / 30).unsqueeze(0)
    clock = 1.7e9 + torch.arange(500, dtype=torch.float64).unsqueeze(0)
    memory = HiPPO(measure, 16)
    expected = memory(signal, timestamps=clock - clock[:, :1])[0]
    with pytest.raises(ValueError, match=r"too coarse .* timestamps - timestamps\[:, :1\]"):
        memory(signal, timestamps=clock.float())
    if isinstance(measure, LegT):
        torch.testing.assert_close(memory(signal, timestamps=clock)[0], expected, rtol=1e-6, atol=1e-6)
        return
    for times in (clock, clock[:, :1], clock / 1e4 + 1e4):
        with pytest.raises(ValueError, match="nearly all of it would be the first sample"):
            memory(signal[:, : times.shape[1]], timestamps=times)


# Length, precision, storage.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("measure", [LegS(), LegT(300.0)])
def test_a_signal_in_half_precision_is_remembered_in_single_precision(measure, dtype):
    t = torch.linspace(0, 1, 4000)
    signal = (0.5 + 0.4 * torch.sin(19 * t)).unsqueeze(0).to(dtype)
    memory = HiPPO(measure, 16)
    for got, expected in (
        (memory.remember(signal), memory.remember(signal.float())),
        (memory(signal)[1], memory(signal.float())[1]),
        (
            memory.step(signal[:, 0], state=memory.remember(signal)),
            memory.step(signal[:, 0].float(), state=memory.remember(signal.float())),
        ),
    ):
        assert got.coefficients.dtype == torch.float32
        assert torch.equal(got.coefficients, expected.coefficients)
    first, second = signal.split(2000, dim=1)
    both = memory.remember(second, state=memory.remember(first)).coefficients
    torch.testing.assert_close(both, memory.remember(signal.float()).coefficients, rtol=1e-4, atol=1e-4)


def test_numbers_near_the_end_of_their_range_are_remembered():
    signal = 4e37 * (torch.arange(200) % 2 * 2.0 - 1).unsqueeze(0)
    memory = HiPPO("legs", 8)
    c = memory.remember(signal).coefficients
    torch.testing.assert_close(c, memory(signal)[1].coefficients, rtol=1e-6, atol=0)
    assert torch.isfinite(c).all()


def test_a_state_is_loaded_with_weights_alone(tmp_path):
    state = HiPPO("legs", 8).remember(torch.randn(2, 30))
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(again.coefficients, state.coefficients)
    assert again.time == state.time


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda memory, x: memory(x.numpy()), "must be a tensor, not ndarray"),
        (lambda memory, x: memory.remember([1.0, 2.0]), "must be a tensor, not list"),
        (lambda memory, x: memory.remember(x, memory.remember(x)), "pass a state by its name"),
        (lambda memory, x: memory(x, memory.remember(x)), "pass a state by its name"),
        (lambda memory, x: memory.route(x, memory.remember(x)), "pass a state by its name"),
        (
            lambda memory, x: memory.step(x[:, 0], memory.step(x[:, 0])),
            r"tensor \(B,\), not State; pass a state by its",
        ),
        (lambda memory, x: memory.remember(x, timestamps=[0.0, 1.0]), "timestamps must be a tensor"),
        (lambda memory, x: memory.step(x[:, 0], timestamps=0.0), "timestamps must be a tensor"),
        (lambda memory, x: memory.step(x[:, 0], torch.tensor(0.0)), "do not match"),
        (lambda memory, x: memory(x, state=torch.zeros(1, 4)), r"not Tensor; of coefficients alone State\("),
        (lambda memory, x: memory.step(x[:, 0], state=(torch.zeros(1, 4), 3)), "state must be the State"),
        (lambda memory, x: memory.step(0.5), "f must be a tensor, not float"),
        (lambda memory, x: memory.step(x[0, 0]), r"f must be one sample of each signal, \(B,\) or \(B, C\), not \(\)"),
        (lambda memory, x: memory.reconstruct(memory.remember(x), np.linspace(0, 1, 4)), "times must be a tensor"),
        (lambda memory, x: memory.reconstruct(memory.remember(x).coefficients.numpy(), x), "memory must be a tensor"),
        (
            lambda memory, x: memory.reconstruct(torch.zeros(2, 3, 4), x, now=torch.ones(3)),
            r"one for each memory of \(2, 3, 4\), not \(3,\)",
        ),
    ],
)
def test_what_is_no_tensor_or_stands_in_the_wrong_place_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(HiPPO("legs", 4), torch.randn(1, 5))


def test_what_follows_the_timestamps_has_a_name():
    """One order for all calls: what is read, its timestamps, and then names, since a misplaced argument would fit."""
    for call in (HiPPO.forward, HiPPO.remember, HiPPO.step, HiPPO.route, Stack.stream, Stack.step, GRU.forward):
        what, timestamps, *others = list(inspect.signature(call).parameters.values())[1:]
        assert what.name in ("signal", "f", "x")
        assert timestamps.name == "timestamps"
        assert all(other.kind is other.KEYWORD_ONLY for other in others)


def test_there_is_no_longest_signal(relative_error):
    length = 5000
    x = torch.arange(length) / (length - 1)
    c, state = HiPPO("legs", 3)(smooth(x)[None])
    assert c.isfinite().all()
    assert state.time == length - 1
    # A memory that stopped scaling anywhere on the way would weigh what came after too much.
    assert relative_error(c[0, -1], projection(smooth, 3)) < 1e-3


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_float32_stays_close_to_float64_over_a_long_signal(discretization, relative_error):
    memory, signal = HiPPO("legs", 16 if discretization == "zoh" else 256, discretization), torch.rand(4, 784)
    error = relative_error(memory(signal.float())[0][:, -1], memory(signal)[0][:, -1])
    assert error < 5e-6


def test_a_memory_stores_nothing():
    for measure, discretization in (p.values for p in EVERY_KIND):
        memory = HiPPO(measure, 64, discretization)
        memory(torch.randn(1, 3))
        assert memory.state_dict() == {}
        assert not list(memory.buffers())
        assert not list(memory.parameters())


@every_kind
def test_a_signal_may_be_one_sample_long(measure, discretization):
    c, state = HiPPO(measure, 3, discretization)(torch.tensor([[2.0], [-1.0]]))
    assert c.shape == (2, 1, 3)
    assert torch.equal(state.coefficients, c[:, 0])
    if measure.scale_invariant:
        assert c.tolist() == [[[2.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0]]]


# What is refused.


@pytest.mark.parametrize("shape", [(), (5,), (2, 0), (2, 0, 3), (2, 5, 3, 1)])
def test_a_signal_that_is_empty_or_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="signal"):
        HiPPO("legs", 3)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (5,), (2, 5, 1)])
def test_timestamps_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="timestamps"):
        HiPPO("legs", 3)(torch.zeros(2, 5, 1), torch.ones(shape))


@pytest.mark.parametrize("times", [[0, 2, 1], [-1, 0, 1], [0, math.nan, 1], [math.nan, 0, 1], [0, 1, math.inf]])
@every_kind
def test_timestamps_that_are_no_times_are_refused_and_named(measure, discretization, times):
    batch = torch.tensor([[0.0, 1.0, 2.0], times])
    with pytest.raises(ValueError, match=r"timestamps.*sample 1 "):
        HiPPO(measure, 3, discretization)(torch.zeros(2, 3), batch)


@every_kind
def test_timestamps_must_not_go_back_behind_the_carried_state(measure, discretization):
    memory = HiPPO(measure, 3, discretization)
    _, state = memory(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 9.0]]))
    memory(torch.zeros(2, 1), torch.tensor([[3.0], [9.0]]), state=state)
    with pytest.raises(ValueError, match=r"sample 1 .* after 9"):
        memory.step(torch.zeros(2), torch.tensor([4.0, 4.0]), state=state)


@pytest.mark.parametrize("order", [0, -3])
def test_an_order_below_one_is_refused(order):
    with pytest.raises(ValueError, match="order"):
        HiPPO("legs", order)


@pytest.mark.parametrize("discretization", [-0.1, 1.5, math.nan, "trapezoid"])
def test_an_unknown_discretization_is_refused(discretization):
    with pytest.raises(ValueError, match="discretization"):
        HiPPO("legs", 3, discretization)


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="measure"):
        HiPPO("lmu", 3)


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (torch.tensor([[0, 10, 20]]), "floating-point"),
        (torch.tensor([[1.0, float("nan")]]), "NaN or infinity"),
        (torch.tensor([[1.0, float("inf")]]), "NaN or infinity"),
    ],
)
def test_a_signal_that_is_no_number_is_refused(signal, words):
    with pytest.raises(ValueError, match=words):
        HiPPO("legs", 3)(signal)


@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (2, 1, 3)])
def test_the_state_of_another_memory_is_refused(shape):
    with pytest.raises(ValueError, match="state holds coefficients"):
        HiPPO("legs", 3)(torch.ones(2, 2), state=State(torch.ones(shape), 2.0))


def test_coefficients_of_another_order_are_not_read():
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 3\)"):
        HiPPO("legs", 3).reconstruct(torch.ones(4), torch.tensor([0.5]))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool])
@every_kind
def test_what_is_no_real_number_is_no_time_and_no_coefficient(measure, discretization, dtype):
    memory = HiPPO(measure, 3, discretization)
    ones, other = torch.ones(2, 4), torch.ones(2, 4, dtype=dtype)
    for read in (memory, memory.remember, memory.route):
        with pytest.raises(ValueError, match="timestamps must be real numbers"):
            read(ones, other)
    for time in (other[:, 0], "5", 5j, None):
        with pytest.raises(ValueError, match=r"state\.time must be .*real number"):
            memory.step(ones[:, 0], state=State(ones[:, :3], time))
    with pytest.raises(ValueError, match=r"state\.time must be a number or \(2,\)"):
        memory.step(ones[:, 0], state=State(ones[:, :3], torch.ones(3)))
    for arguments, words in (
        ((other[:, :3], ones[0]), "coefficients must be"),
        ((ones[:, :3], other[0]), "times must be"),
        ((ones[:, :3], ones[0], other[:, 0]), "now must be"),
        ((ones[:, :3], ones[0], 5j), "now must be"),
    ):
        with pytest.raises(ValueError, match=words):
            memory.reconstruct(*arguments[:2], now=arguments[2] if len(arguments) == 3 else 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_kind
def test_a_signal_that_is_nearly_too_large_for_its_precision_is_remembered(measure, discretization, dtype):
    """It alternates, so that sums on the way are larger than what comes of them."""
    memory, signs = HiPPO(measure, 5, discretization), 1 - 2 * (torch.arange(100, dtype=dtype) % 2).unsqueeze(0)
    for exponent in (0.55, 0.9, 1.0):
        size = torch.finfo(dtype).max ** exponent * 0.99
        expected = memory.remember(signs).coefficients
        torch.testing.assert_close(memory.remember(signs * size).coefficients / size, expected, rtol=1e-4, atol=1e-5)


def test_coefficients_that_no_float_can_hold_are_said_to_be_too_large():
    signal = 3e38 * (1 - 2 * (torch.arange(9.0, dtype=torch.float32) % 2)).unsqueeze(0)
    memory = HiPPO("legs", 5)
    assert torch.isfinite(memory.remember(signal).coefficients).all()
    with pytest.raises(ValueError, match=r"values of up to 3e\+38, and torch\.float32 cannot hold"):
        memory(signal)  # after two samples
    state = memory.step(signal[:, 0])
    with pytest.raises(ValueError, match="make them smaller"):
        memory.step(signal[:, 1], state=state)


def test_float32_keeps_a_long_mean():
    """A step stores Ā − I, not Ā: rounding 1 − 1/t to float32 would be a step of another size, always the same way."""
    memory = HiPPO("legs", 1)
    signal = 1 + 0.5 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = [
        memory(signal.to(dtype), state=State(torch.ones(1, 1, dtype=dtype), 1e5))[1].coefficients.item()
        for dtype in (torch.float32, torch.float64)
    ]
    three_standard_deviations_of_rounding = 3 * 20_000**0.5 * 2**-24
    assert abs(means[0] - means[1]) < three_standard_deviations_of_rounding


# What the measures have in common with older cells, and with each other.


def test_a_laguerre_memory_of_one_number_is_a_gated_recurrence():
    """c ← (1 − Δ) c + Δ f, the exponential mean that gates make."""
    signal, delta = torch.randn(3, 40), 0.3
    c, _ = HiPPO(LagT(1 / delta), 1, "euler")(signal)
    expected = torch.zeros(3)
    for k in range(40):
        expected = (1 - delta) * expected + delta * signal[:, k]
        torch.testing.assert_close(c[:, k, 0], expected, rtol=1e-13, atol=1e-15)


def test_a_gate_that_an_input_sets_is_a_memory_of_one_number_whose_time_constant_it_sets():
    """h ← h + g (f − h), with 1 − (1 − g)^Δ for g after a gap of Δ: of held samples, and θ = −1/log(1 − g)."""
    signal, gates = torch.randn(2, 30), torch.rand(30) * 0.98 + 0.01
    times = torch.cumsum(torch.rand(2, 30) * 3, 1)
    h, state = torch.zeros(2), None
    for k, g in enumerate(gates):
        memory = HiPPO(LagT(-1 / math.log1p(-g)), 1, "zoh")
        if state is None:  # one that holds 0 at time 0
            state = State(torch.zeros(2, 1), torch.zeros(2))
        gap = times[:, k] - (times[:, k - 1] if k else 0.0)
        h = h + (1 - (1 - g) ** gap) * (signal[:, k] - h)
        state = memory.step(signal[:, k], times[:, k], state=state)
        torch.testing.assert_close(state.coefficients[:, 0], h, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [1, 5, 40])
def test_legs_with_regular_timestamps_is_legs(order, relative_error):
    signal = torch.randn(3, 60)
    plain, _ = HiPPO("legs", order)(signal)
    for scale in (1.0, 0.37):
        timed, _ = HiPPO("legs", order)(signal, scale * torch.arange(60.0).expand(3, -1))
        assert relative_error(timed, plain) < 1e-12


@every_kind
def test_a_batch_sampled_alike_is_remembered_as_its_parts_are(measure, discretization, relative_error):
    """One transition for the whole batch, against one for each sample."""
    signal, times = torch.randn(3, 25), irregular_times(1, 25).expand(3, -1)
    memory = HiPPO(measure, 9, discretization)
    together, state = memory(signal, times)
    mixed, _ = memory(torch.cat([signal, signal[:1]]), torch.cat([times, times[:1] + 1]))
    assert relative_error(together, mixed[:3]) < 1e-12
    assert state.time.shape == (3,)
    first, middle = memory(signal[:, :10], times[:, :10])
    second, _ = memory(signal[:, 10:], times[:, 10:], state=middle)
    assert relative_error(torch.cat([first, second], 1), together) < 1e-12


@pytest.mark.parametrize("order", [4, 24])
def test_the_memory_of_the_lmu_is_that_of_legt(order, relative_error):
    signal = torch.randn(2, 100)
    change = torch.sqrt(2 * torch.arange(order) + 1.0) * (-1.0) ** torch.arange(order)
    legt, _ = HiPPO(LegT(30.0), order, "zoh")(signal)
    lmu, _ = HiPPO(LMU(30.0), order, "zoh")(signal)
    assert relative_error(lmu, legt * change) < 1e-12


@pytest.mark.parametrize(
    ("measure", "order", "bound"),
    [(LegT(500.0), 24, 2e-4), (ChebT(500.0), 24, 2e-4), (FouT(500.0), 49, 0.2), (LagT(40.0), 24, 0.002)],
    ids=str,
)
def test_a_sliding_memory_gives_its_window_back(measure, order, bound):
    def f(t):
        return torch.sin(t / 90) + 0.5 * torch.cos(t / 40)

    memory, t = HiPPO(measure, order), torch.arange(1.0, 1401.0)
    c, state = memory(f(t - 0.5).unsqueeze(0))  # a sample stands for the interval that ends with it
    recent = t[-300:]
    assert (memory.reconstruct(c[0, -1], recent, now=float(state.time)) - f(recent)).square().mean().sqrt() < bound


# One sample at a time, and which implementation serves.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (4, 3)], ids=str)
@pytest.mark.parametrize("timed", [False, True])
@every_kind
def test_a_step_has_the_numbers_of_forward_to_the_last_bit(measure, discretization, timed, shape, dtype):
    signal = torch.randn(shape[0], 12, *shape[1:], dtype=dtype)
    times = irregular_times(shape[0], 12) if timed else None
    if times is not None:
        times[:, 7] = times[:, 6]
    memory, state = HiPPO(measure, 6, discretization), None
    whole, last = memory(signal, times)
    looped = memory.route(signal, times).name == "compiled loop"  # matrix products of other sizes round differently
    for k in range(12):
        before = None if state is None else state.coefficients.clone()
        after = memory.step(signal[:, k], None if times is None else times[:, k], state=state)
        assert before is None or torch.equal(state.coefficients, before)
        state = after
        assert torch.equal(state.coefficients, whole[:, k]) or not looped
        torch.testing.assert_close(
            state.coefficients, whole[:, k], rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13
        )
    assert torch.equal(torch.as_tensor(state.time), torch.as_tensor(last.time))


@pytest.mark.parametrize("timed", [False, True])
@every_kind
def test_gradients_flow_through_steps(measure, discretization, timed):
    memory, signal = HiPPO(measure, 5, discretization), torch.randn(2, 9, requires_grad=True)
    times = irregular_times(2, 9) if timed else None
    state = None
    for k in range(9):
        state = memory.step(signal[:, k], None if times is None else times[:, k], state=state)
    upstream = torch.randn(2, 5)
    (found,) = torch.autograd.grad(state.coefficients, signal, upstream)
    (expected,) = torch.autograd.grad(memory(signal, times)[1].coefficients, signal, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(1,), (4, 3)], ids=str)
@every_kind
def test_without_gradients_steps_take_tensors_that_would_have_them(measure, discretization, shape):
    memory, signal = HiPPO(measure, 6, discretization), torch.randn(shape[0], 9, *shape[1:], requires_grad=True)
    state = memory.step(signal[:, 0])
    assert state.coefficients.requires_grad
    with torch.no_grad():
        for k in range(1, 9):
            state = memory.step(signal[:, k].detach().requires_grad_(), state=state)
            assert not state.coefficients.requires_grad
            state = state._replace(coefficients=state.coefficients.requires_grad_())
        expected = memory(signal)[0][:, -1]
    torch.testing.assert_close(state.coefficients, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [1, 3])
@every_kind
def test_a_step_refuses_what_forward_refuses(measure, discretization, batch, value):
    memory = HiPPO(measure, 5, discretization)
    state = memory.step(torch.ones(batch))
    with pytest.raises(ValueError, match="NaN or infinity"):
        memory.step(torch.full((batch,), value), state=state)
    with pytest.raises(ValueError, match="state holds coefficients"):
        memory.step(torch.ones(batch + 1), state=state)
    with pytest.raises(ValueError, match="convert one"):
        memory.step(torch.ones(batch, dtype=torch.float32), state=state)
    with pytest.raises(ValueError, match=r"state\.time must be finite"):
        memory.step(torch.ones(batch), state=State(state.coefficients, math.nan))
    with pytest.raises(ValueError, match="non-decreasing"):
        memory.step(torch.ones(batch), torch.full((batch,), 4.0), state=State(state.coefficients, 5.0))
    with pytest.raises(ValueError, match="non-decreasing"):
        memory.step(torch.ones(batch), torch.full((batch,), math.nan), state=State(state.coefficients, 5.0))
    with pytest.raises(ValueError, match="do not match"):
        memory.step(torch.ones(batch), torch.full((batch % 2 + 1,), 4.0), state=state)
    with pytest.raises(ValueError, match="≥ 1"):
        memory.step(torch.ones(0), state=State(state.coefficients[:0], 3.0))


@pytest.mark.parametrize("call", ["step", "remember"])
@every_kind
def test_a_state_that_is_not_finite_or_too_large_is_refused(measure, discretization, call):
    memory = HiPPO(measure, 5, discretization)
    call, f = getattr(memory, call), torch.zeros(1) if call == "step" else torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"state\.coefficients must be finite"):
        call(f, state=State(torch.full((1, 5), math.nan), 3.0))
    large = State(torch.full((1, 5), 3e38, dtype=torch.float32), 3.0)
    with contextlib.suppress(ValueError):  # where it cannot be held
        assert torch.isfinite(call(f.float(), state=large).coefficients).all()


def test_a_state_keeps_its_time_when_the_caller_fills_a_buffer_anew():
    memory, now, state, samples = HiPPO("legs", 4), torch.zeros(1), None, torch.arange(1.0, 5)
    for k in range(4):
        now.fill_(k + 1)
        state = memory.step(samples[k : k + 1], now, state=state)
    expected = memory.remember(samples[None], samples[None])
    torch.testing.assert_close(state.coefficients, expected.coefficients)
    chunk = torch.tensor([[5.0, 6.0]])
    state = memory.remember(torch.ones(1, 2), chunk, state=state)
    chunk += 2
    assert torch.equal(state.time, torch.tensor([6.0]))


def test_a_number_of_any_kind_is_a_time():
    memory = HiPPO("legs", 4)
    for call in (memory.forward, memory.remember):
        call(torch.ones(1, 3), state=State(torch.zeros(1, 4), Fraction(7, 2)))


@pytest.mark.parametrize("discretization", ["bilinear", "zoh"])
def test_a_subclass_of_legs_has_dynamics_of_its_own(discretization):
    class Slower(LegS):
        def dynamics(self, order):
            A, B = super().dynamics(order)
            return A / 2, B / 2

    signal = torch.randn(1, 5)
    found, plain = (HiPPO(measure, 4, discretization)(signal)[0] for measure in (Slower(), LegS()))
    assert (found - plain)[:, 1:].abs().max() > 0.01


IMPLEMENTATIONS = {  # by the name of their route
    "compiled loop": [(cpu, "sequence"), (cpu, "step")],
    "plain loop": [(naive, "sequence")],
    "wavefront": [(wavefront, "remember")],
    "blocks of samples": [(lti, "last")],
    "scan": [(lti, "scan")],
    "convolution": [(lti, "convolution")],
    "matrix products": [(Transition, "__call__")],
    "weighted sum": [(scaled, "remember")],
}
ROUTES = [  # measure, discretization, length, timed, dtype, the route of forward, that of remember, and a word of why
    (LegS(), "bilinear", 90, False, torch.float64, "compiled loop", "wavefront", "the last state alone"),
    (LegS(), "bilinear", 90, True, torch.float32, "compiled loop", "compiled loop", "times of their own"),
    (LegS(), 0.3, 90, False, torch.float32, "compiled loop", "compiled loop", "not bilinear"),
    (LegS(), "bilinear", 9, False, torch.bfloat16, "compiled loop", "wavefront", "the last state alone"),
    (JacS(1.0), "bilinear", 90, False, torch.float64, "compiled loop", "wavefront", "the last state alone"),
    (JacS(1.0), "bilinear", 90, True, torch.float64, "compiled loop", "compiled loop", "times of their own"),
    (Scaled(begin=1.0), 0.3, 90, False, torch.float32, "compiled loop", "compiled loop", "not bilinear"),
    (LegS(), "zoh", 9, False, torch.float64, "matrix products", "weighted sum", "the last state alone"),
    (JacS(1.0), "zoh", 9, True, torch.float32, "matrix products", "weighted sum", "the last state alone"),
    (Scaled(tilted=True), "zoh", 9, False, torch.float64, "matrix products", "matrix products", "own matrix under zoh"),
    (LegT(20.0), "bilinear", 90, False, torch.float64, "matrix products", "blocks of samples", "the last state alone"),
    (LegT(20.0), "bilinear", 9, False, torch.float64, "matrix products", "matrix products", "one matrix"),
    (LegT(20.0), "zoh", 90, True, torch.float64, "matrix products", "matrix products", "each gap"),
]


@pytest.fixture
def called(monkeypatch):
    """The routes whose implementations have been called."""
    names = []
    for name, places in IMPLEMENTATIONS.items():
        for owner, attribute in places:
            function = getattr(owner, attribute)

            def spy(*args, _name=name, _function=function, **kwargs):
                names.append(_name)
                return _function(*args, **kwargs)

            monkeypatch.setattr(owner, attribute, spy)
    return names


@pytest.mark.parametrize(("measure", "discretization", "length", "timed", "dtype", "every", "last", "why"), ROUTES)
def test_the_route_is_the_one_taken(called, measure, discretization, length, timed, dtype, every, last, why):
    if every == "compiled loop" and not kernels.compiled():
        every, last, why = "plain loop", "plain loop", "numba"
    memory, signal = HiPPO(measure, 8, discretization), torch.randn(2, length).to(dtype)
    times = irregular_times(2, length) if timed else None
    for call, route in (
        (memory.forward, memory.route(signal, times)),
        (memory.remember, memory.route(signal, times, last=True)),
    ):
        assert route.name == (every if call == memory.forward else last)
        called.clear()
        call(signal, times)
        assert set(called) == {route.name}
    assert why in str(memory.route(signal, times, last=True))
    state = memory.remember(signal, times)
    called.clear()
    after = None if times is None else times[:, -1] + 1
    memory.step(signal[:, 0], after, state=state)
    route = memory.route(signal[:, :1], None if after is None else after.unsqueeze(1), state=state, last=True)
    assert set(called) == {route.name}


@pytest.mark.parametrize(
    ("measure", "discretization", "timed"),
    [("legs", 0.5, False), ("legs", "zoh", False), ("legs", 0.5, True), (LegT(20.0), "zoh", True)],
)
def test_a_first_sample_fills_the_memory_and_takes_no_step(called, measure, discretization, timed):
    memory, signal = HiPPO(measure, 8, discretization), torch.randn(2, 1)
    times = torch.ones(2, 1) if timed else None
    _, state = memory(signal, times)
    assert torch.equal(state.coefficients, memory.remember(signal, times).coefficients)
    assert torch.equal(state.coefficients, memory.step(signal[:, 0], timestamps=torch.ones(2) if timed else None)[0])
    assert called == []
    assert memory.route(signal, times, last=True).name == memory.route(signal, times).name == "first sample"


def test_a_route_raises_what_the_call_would():
    memory, signal = HiPPO("legs", 8), torch.randn(2, 9)
    for arguments in (
        {"signal": torch.zeros(0, 9)},
        {"signal": signal.long()},
        {"signal": signal, "timestamps": torch.zeros(2, 8)},
        {"signal": signal, "state": memory.remember(signal.half())},
        {"signal": signal, "state": memory.remember(signal[:1])},
    ):
        with pytest.raises(ValueError) as raised:  # noqa: PT011  (compared below)
            memory(**arguments)
        with pytest.raises(ValueError, match=re.escape(str(raised.value))):
            memory.route(**arguments)


@pytest.mark.parametrize("length", [9, 90])
@every_kind
def test_the_host_looks_at_no_value_elsewhere_than_on_a_cpu(measure, discretization, length):
    """Tensors of this device have none, and asking for one is an error; on a GPU the host would wait."""
    memory, signal = HiPPO(measure, 8, discretization), torch.empty(2, length, 3, device="meta")
    coefficients, state = memory(signal)
    assert coefficients.shape == (2, length, 3, 8)
    state = memory.step(signal[:, 0], state=memory.remember(signal, state=state))
    assert state.coefficients.shape == (2, 3, 8)
    if memory._law.linear_time:  # others ask whether all share their times, and which gaps have equal matrices
        assert memory(signal, torch.empty(2, length, device="meta"))[0].shape == (2, length, 3, 8)


@pytest.mark.parametrize("form", ["scan", "convolution"])
def test_a_form_that_is_asked_for_is_the_route(called, form):
    memory, signal = HiPPO(LegT(20.0), 8), torch.randn(2, 9)
    memory(signal, form=form)
    assert called == [form] == [memory.route(signal, form=form).name]


@pytest.mark.skipif(not kernels.compiled(), reason="numba is not installed")
def test_a_route_says_what_keeps_a_call_from_the_compiled_loop(monkeypatch):
    memory, signal = HiPPO("legs", 4), torch.randn(2, 9)

    def reason(signal=signal, state=None):
        return memory.route(signal, state=state).reason

    assert memory.route(signal).name == "compiled loop"
    assert "meta" in reason(signal.to("meta"))
    assert memory.route(signal.half()).name == "compiled loop"
    assert "Masked" in reason(signal.as_subclass(type("Masked", (torch.Tensor,), {})))
    inside = []
    torch.func.vmap(lambda v: inside.append(reason(signal)) or v)(signal)
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        inside.append(reason())
    torch.jit.trace(lambda v: inside.append(reason()) or v + 1, (signal,), check_trace=False)
    with forward_ad.dual_level():
        inside.append(reason(forward_ad.make_dual(signal, signal)))
        inside.append(reason(state=State(forward_ad.make_dual(torch.zeros(2, 4), torch.ones(2, 4)), 1.0)))
    for found, expected in zip(inside, ["transform", "dispatch", "trace", "tangent", "tangent"], strict=True):
        assert expected in found
    monkeypatch.setattr("hippo.kernels.common.native.numba", lambda: None)
    assert "numba is not installed" in reason()
