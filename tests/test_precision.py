"""What is computed in double precision is so under every default dtype, and lies on the CPU under every default device.

A Python number times a tensor of integers is of the default dtype, as is what is made without one; both lose nine
digits before they meet float64, and no test that itself sets the default dtype to float64 can see it.
"""

import decimal
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from hippo import HiPPO, discretize
from hippo.data import Digits, WhiteNoise, white_noise
from hippo.data.permutation import pixel_order
from hippo.data.sampling import Sampling, sample
from hippo.measures import LMU, ChebT, FouT, LagT, LegS, LegT, Rand
from hippo.models import FRU, GRU, GRUD, MGU, ODERNN, ExpRNN, GRUDt, HiPPORNN, NeuralCDE, Transformer
from hippo.models import LMU as LMUModel

ORDERS = [1, 2, 33, 512, 513]
NOW = 7.3  # not a number that float32 has
MEASURES = [LegS(), LegT(0.3), LMU(0.3), ChebT(0.3), FouT(0.3), LagT(2.3, 0.0, 0.0), LagT(2.3), LagT(0.7, 0.5, 0.4)]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture
def elsewhere():
    """A default device on which nothing can be computed."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def points(measure):
    """Times in the window, away from the ends, where a weight may be infinite."""
    oldest, newest = measure.window(NOW)
    oldest = max(oldest, NOW - 6 * getattr(measure, "length", math.inf))
    return oldest + (newest - oldest) * (np.arange(40) + 0.37) / 40


def numpys_dynamics(measure, order):
    """A and B by numpy and scipy alone, from the formulas."""
    n, k = np.mgrid[:order, :order].astype(float)
    one, length = np.arange(order, dtype=float), getattr(measure, "length", 1.0)
    match measure:
        case LegS():
            A = np.where(n > k, -np.sqrt((2 * n + 1) * (2 * k + 1)), np.where(n == k, -n - 1, 0))
            B = np.sqrt(2 * one + 1)
        case LegT():
            A = -np.sqrt((2 * n + 1) * (2 * k + 1)) * np.where(k <= n, 1, (-1) ** (n + k))
            B = np.sqrt(2 * one + 1)
        case LMU():
            A = (2 * n + 1) * np.where(n < k, -1, (-1) ** (n + k + 1))
            B = (2 * one + 1) * (-1) ** one
        case FouT():
            pairs = (order - 1) // 2
            now = np.r_[1, np.tile([math.sqrt(2), 0], pairs), np.zeros(1 - order % 2)]
            turns = [np.array([[0, -1], [1, 0]]) * 2 * math.pi * (j + 1) for j in range(pairs)]
            A = scipy.linalg.block_diag(0, *turns, *np.zeros((1 - order % 2, 1, 1))) - 2 * np.outer(now, now)
            B = 2 * now
        case LagT():
            norms = laguerre_norms(order, measure.alpha)
            A = np.where(n > k, -1, np.where(n == k, -(1 + measure.beta) / 2, 0)) * norms / norms[:, None]
            B = norms
        case ChebT():
            scale = np.r_[1, np.full(order, math.sqrt(2))]
            slopes = np.zeros((order + 1, order + 1))
            for column in range(1, order + 1):
                slope = np.polynomial.chebyshev.chebder(np.eye(order + 1)[column])
                slopes[: len(slope), column] = slope
            end = slopes[:order, order - 1 :].sum(1) / 2
            A = 2 * (slopes[:order, :order] - end[:, None]) * scale[:order] / scale[:order, None]
            B = 2 * end / scale[:order]
    return A / length, B / length


def numpys_basis(measure, order, times):
    n = np.arange(order)
    match measure:
        case LegS():
            return np.polynomial.legendre.legvander(2 * times / NOW - 1, order - 1) * np.sqrt(2 * n + 1)
        case LegT():
            return np.polynomial.legendre.legvander(2 * (times - NOW) / measure.length + 1, order - 1) * np.sqrt(
                2 * n + 1
            )
        case LMU():
            return np.polynomial.legendre.legvander(2 * (NOW - times) / measure.length - 1, order - 1)
        case ChebT():
            values = np.polynomial.chebyshev.chebvander(2 * (times - NOW) / measure.length + 1, order - 1)
            return values * np.where(n == 0, 1, math.sqrt(2))
        case FouT():
            lag = (NOW - times) / measure.length
            columns = [np.ones_like(times)]
            for j in range(1, (order - 1) // 2 + 1):
                columns += [math.sqrt(2) * np.cos(2 * math.pi * j * lag), math.sqrt(2) * np.sin(2 * math.pi * j * lag)]
            return np.stack([*columns, *[np.zeros_like(times)] * (1 - order % 2)], axis=1)
        case LagT():  # scipy's polynomials lose all digits at this order
            a, lags = measure.alpha, (NOW - times) / measure.length
            tilt = lags**a * np.exp((measure.beta - 1) * lags / 2) / math.gamma(a + 1)
            return np.array([laguerre(order, a, s) for s in lags]) * tilt[:, None] / laguerre_norms(order, a)


def laguerre_norms(order, alpha):
    """√C(n+α, n) for n < N."""
    n = np.arange(1, order)
    return np.sqrt(np.r_[1.0, np.cumprod((n + alpha) / n)])


def laguerre(order, alpha, s):
    """L_n^(α)(s) for n < N, by decimal numbers of forty digits."""
    with decimal.localcontext(decimal.Context(prec=40)):
        a, s = decimal.Decimal(alpha), decimal.Decimal(s)
        values = [decimal.Decimal(1), 1 + a - s]
        for n in range(1, order - 1):
            values.append(((2 * n + 1 + a - s) * values[n] - (n + a) * values[n - 1]) / (n + 1))
        return [float(value) for value in values[:order]]


def numpys_weight(measure, times):
    match measure:
        case LegS():
            return np.full_like(times, 1 / NOW)
        case ChebT():
            lag = (NOW - times) / measure.length
            return 1 / (math.pi * measure.length * np.sqrt(lag * (1 - lag)))
        case LagT():
            lag = (NOW - times) / measure.length
            return math.gamma(measure.alpha + 1) * lag**-measure.alpha * np.exp(-measure.beta * lag) / measure.length
    return np.full_like(times, 1 / measure.length)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_a_measure_agrees_with_numpy_in_double_precision(measure, order, default_dtype):
    for actual, expected in zip(measure.dynamics(order), numpys_dynamics(measure, order), strict=True):
        assert actual.dtype == torch.float64
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-13 * abs(expected).max())
    times = points(measure)
    basis, expected = measure.basis(order, torch.from_numpy(times), NOW), numpys_basis(measure, order, times)
    assert basis.dtype == torch.float64
    np.testing.assert_allclose(basis.numpy(), expected, rtol=0, atol=1e-11 * abs(expected).max())
    weight = measure.weight(torch.from_numpy(times), NOW)
    assert weight.dtype == torch.float64
    np.testing.assert_allclose(weight.numpy(), numpys_weight(measure, times), rtol=1e-13)


def numpys_step(A, B, dt, alpha):
    """Ā and B̄ by numpy and scipy; α is None for the zero-order hold."""
    order = len(B)
    if alpha is None:
        both = scipy.linalg.expm(np.block([[A, B[:, None]], [np.zeros((1, order + 1))]]) * dt)[:order]
        return both[:, :order], both[:, order]
    implicit = np.eye(order) - alpha * dt * A
    return np.linalg.solve(implicit, np.eye(order) + (1 - alpha) * dt * A), np.linalg.solve(implicit, dt * B)


DISCRETIZATIONS = {
    "euler": (discretize.euler, 0.0),
    "backward_euler": (discretize.backward_euler, 1.0),
    "bilinear": (discretize.bilinear, 0.5),
    "gbt": (lambda A, B, dt: discretize.gbt(A, B, dt, 0.3), 0.3),
    "zoh": (discretize.zoh, None),
}


@pytest.mark.parametrize("name", DISCRETIZATIONS)
@pytest.mark.parametrize(
    ("measure", "order"),
    [(LegS(), 33), (LegS(), 257), (LegT(300.0), 513), (FouT(300.0), 513), (LagT(4.0), 33)],
    ids=str,
)
def test_a_discretization_agrees_with_numpy_in_double_precision(measure, order, name, default_dtype):
    step, alpha = DISCRETIZATIONS[name]
    dt = 0.1 if isinstance(measure, LegS) else 1.3  # neither of which float32 has
    found = step(*measure.dynamics(order), dt)
    for actual, expected in zip(found, numpys_step(*numpys_dynamics(measure, order), dt, alpha), strict=True):
        assert actual.dtype == torch.float64
        assert np.linalg.norm(actual.numpy() - expected) < 1e-11 * np.linalg.norm(expected)


def test_constants_lie_on_the_cpu_whatever_the_default_device(elsewhere):
    time = torch.zeros(1, dtype=torch.float64, device="cpu")
    for measure in [*MEASURES, Rand(3.0)]:
        A, B = measure.dynamics(5)
        tensors = [A, B, *discretize.bilinear(A, B, 0.1), *discretize.zoh(A, B, 0.1)]
        if not isinstance(measure, Rand):
            tensors += [measure.basis(5, time + NOW - 0.1, NOW), measure.weight(time + NOW - 0.1, NOW)]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_random_dynamics_do_not_depend_on_the_default_dtype(default_dtype):
    A, B = Rand(3.0, seed=1).dynamics(5)
    G = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(A.numpy(), (0.9 * G[:, 1:] / np.linalg.norm(G[:, 1:], 2) - np.eye(5)) / 3, rtol=1e-14)
    np.testing.assert_array_equal(B.numpy(), G[:, 0] / 3)


def datasets():
    """Everything that a dataset draws or reads, by name."""
    x, lengths = torch.from_numpy(np.linspace(0, 1, 42).reshape(2, 7, 3)), torch.tensor([7, 5], device="cpu")
    digits = Digits(permutation="random", timestamps=True).load(Path())
    noise = WhiteNoise(length=50, cycles=5, points=7, sizes=(2, 1, 3)).load(Path())
    return {
        "white noise": [white_noise(2, 21, 4, seed=0)],
        "permutations": [pixel_order(name, 12, seed=1) for name in ("none", "bit_reversal", "random")],
        "sampling": list(sample(x, lengths, Sampling(rate=2, drop=0.4), seed=1)),
        "digits": [t for split in digits[:3] for t in split[1] if t is not None],
        "functions": [t for split in noise[:3] for t in split[0] if t is not None],
    }


def test_data_depend_on_no_default(default_dtype):
    found = datasets()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    try:
        again = datasets()
    finally:
        torch.set_default_device(None)
    for name, tensors in found.items():
        for actual, expected in zip(again[name], tensors, strict=True):
            assert actual.dtype == expected.dtype, name
            assert torch.equal(actual, expected), name


MODELS = {
    "hippo-legs": HiPPORNN,
    "hippo-legs-zoh": lambda *sizes: HiPPORNN(*sizes, discretization="zoh"),
    "hippo-fourier": lambda *sizes: HiPPORNN(*sizes, measure=FouT(10.0)),
    "lmu": LMUModel,
    "lmu-trainable": lambda *sizes: LMUModel(*sizes, trainable_length=True),
    "fru": FRU,
    "gru": GRU,
    "mgu": MGU,
    "exprnn": ExpRNN,
    "gru-d": GRUD,
    "gru-dt": GRUDt,
    "ode-rnn": ODERNN,
    "neural-cde": NeuralCDE,
    "transformer": lambda *sizes: Transformer(*sizes, heads=2, dropout=0.0),
}


@pytest.mark.parametrize("family", MODELS.values(), ids=MODELS.keys())
def test_a_model_in_double_precision_needs_no_default_dtype(family):
    torch.manual_seed(0)
    model = family(2, 8).double().eval()
    x = torch.randn(3, 40, 2, dtype=torch.float64)
    timestamps = torch.cumsum(torch.rand(3, 40, dtype=torch.float64), 1) if model.needs_timestamps else None
    found = model(x, timestamps)
    torch.set_default_dtype(torch.float64)
    try:
        expected = model(x, timestamps)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


@pytest.mark.parametrize("timed", [False, True], ids=["", "timed"])
@pytest.mark.parametrize("discretization", ["bilinear", "zoh", 0.3])
@pytest.mark.parametrize("measure", ["legs", LegT(8.0), FouT(8.0), ChebT(8.0), LagT(3.0), Rand(3.0)], ids=str)
def test_a_memory_of_a_signal_in_double_precision_needs_no_default_dtype(measure, discretization, timed):
    memory = HiPPO(measure, 9, discretization)
    signal = torch.randn(2, 30, dtype=torch.float64)
    timestamps = torch.cumsum(torch.rand(2, 30, dtype=torch.float64), 1) if timed else None
    found = memory(signal, timestamps)[0]
    torch.set_default_dtype(torch.float64)
    try:
        expected = memory(signal, timestamps)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
