"""Measures: how a memory weighs the past, and the linear ODE that keeps its optimal polynomial coefficients.

A measure on the past of a signal f, with an orthonormal basis g_0, g_1, … for it, defines the coefficients
c_n(t) = ∫ f(x) g_n(t, x) dμ_t(x) of the best approximation f̂ = Σ c_n g_n of f by N basis functions. HiPPO (arXiv
2008.07669) shows that they follow a linear ODE. Here every measure uses the *orthonormal* basis; the LMU's own basis,
for the sake of the model that has it, is the one exception. A measure is data: `dynamics`, `basis`, `weight`, `window`;
the algorithms are in `hippo.memory`.

Of exact coefficients, ‖c‖² = ∫ f̂² dμ is the energy remembered, and at most ∫ f² dμ. Whether those of a memory keep to
that bound depends on its discretization: see `hippo.discretize`.

The sliding windows (LegT, ChebT, FouT) forget f(t − θ) as they learn f(t), but a memory does not hold f(t − θ): each
reads it from its own coefficients, which is the one approximation made, and vanishes as N grows.
"""

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

CPU = torch.device("cpu")  # of float64 constants: they depend neither on the default device nor on the default dtype


@dataclass(frozen=True)
class Measure(ABC):
    """Base of all measures. What one is made with are fields of its dataclass: measures with equal fields share what is
    computed of them.

    Attributes:
        scale_invariant: False when dc/dt = A c + B f; True when dc/dt = (A c + B f) / t, which makes the memory
            independent of the time scale of its input.
    """

    scale_invariant: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "__init__" in vars(cls):
            raise TypeError(f"{cls.__name__} has an __init__ of its own: make it a frozen dataclass, with fields")

    @property
    def scaled_power(self) -> float | None:
        """a where the measure is that of `JacS`, whose steps cost O(N); None for all others."""
        return None

    @abstractmethod
    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        """Return the state matrix A (N, N) and the input vector B (N,) of the ODE, in float64 on the CPU."""

    @abstractmethod
    def window(self, now: float) -> tuple[float, float]:
        """Return the interval of the past, as (oldest, newest) times, that the memory covers at time `now`."""

    @abstractmethod
    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        """Return g_n(now, x) at floating-point times x of shape (...), as a tensor (..., N) of their dtype and device.
        Meaningful inside `window` only."""

    @abstractmethod
    def weight(self, times: Tensor, now: float) -> Tensor:
        """Return the density of μ_now at floating-point times x of shape (...), inside `window`."""


@dataclass(frozen=True)
class JacS(Measure):
    """Scaled Jacobi: the whole past [0, t], a moment x weighted by (1 + a) (x/t)^a, of which a = 0 makes `LegS`.

    Its basis is that of Jacobi's polynomials P_n^(0,a). Integration by parts (Appendix B of arXiv 2008.07669) gives,
    with s_n = √(2n + 1 + a),

        A_nn = −(n + 1 + a),   A_nk = −s_n s_k below the diagonal,   B_n = s_0 s_n.

    The system is closed: coefficients are exact at every N. The weight is a probability; under (x/t)^a / t itself, B
    would be s, and all coefficients 1/s_0 times these.

    Args:
        power: a > −1. Above 0 the recent past counts more, below 0 the beginning.

    Raises:
        ValueError: If a is beyond its range.
    """

    scale_invariant: ClassVar[bool] = True
    power: float

    def __post_init__(self) -> None:
        if not (_real(self.power) and -1 < self.power < math.inf):
            raise ValueError(f"the power of {type(self).__name__} must be above -1 and finite, not {self.power!r}")

    @property
    def scaled_power(self) -> float | None:
        return self.power if type(self).dynamics is JacS.dynamics else None  # a subclass may have its own

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        n = _index(order)
        s = torch.sqrt(2 * n + (1 + self.power))
        return -torch.tril(s[:, None] * s, diagonal=-1) - torch.diag(n + (1 + self.power)), s[0] * s

    def window(self, now: float) -> tuple[float, float]:
        return 0.0, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        norms = torch.sqrt((2 * _index(order) + (1 + self.power)) / (1 + self.power))
        return norms.to(times) * jacobi(order, 2 * times / now - 1, self.power)

    def weight(self, times: Tensor, now: float) -> Tensor:
        return (1 + self.power) / now * (times / now) ** self.power


@dataclass(frozen=True)
class LegS(JacS):
    """Scaled Legendre: the whole past [0, t], weighted evenly (Theorem 2 of arXiv 2008.07669)."""

    power: float = field(default=0.0, init=False, repr=False)


@dataclass(frozen=True)
class Translated(Measure):
    """A measure that moves along with time.

    Args:
        length: The window θ > 0, or the time constant where the window is infinite, in the unit of the timestamps (in
            samples where there are none).

    Raises:
        ValueError: If a parameter is beyond its range.
    """

    length: float

    def __post_init__(self) -> None:
        if not (_real(self.length) and 0 < self.length < math.inf):
            raise ValueError(
                f"the length of {type(self).__name__}'s window must be above 0 and finite, not {self.length!r}"
            )

    def window(self, now: float) -> tuple[float, float]:
        return now - self.length, now

    def weight(self, times: Tensor, now: float) -> Tensor:
        return torch.full_like(times, 1 / self.length)


@dataclass(frozen=True)
class LegT(Translated):
    """Translated Legendre: the last `length` units of time, weighted evenly (Theorem 1 of arXiv 2008.07669)."""

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        s = _legendre_norms(order)
        difference = _index(order)[:, None] - _index(order)
        signs = torch.where(difference >= 0, 1.0, (-1.0) ** difference)
        return -s[:, None] * s * signs / self.length, s / self.length

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _legendre_norms(order).to(times) * legendre(order, 2 * (times - now) / self.length + 1)


@dataclass(frozen=True)
class LMU(Translated):
    """LegT as the Legendre Memory Unit has it (Voelker et al. 2019, equations 1 and 2).

    The coefficients belong to the shifted Legendre polynomials P_n(2(t−x)/θ − 1), which are orthogonal but not
    normalized: they are LegT's times (−1)^n √(2n+1), the memory is the same.
    """

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        i = _index(order)
        difference = i[:, None] - i
        signs = torch.where(difference < 0, -1.0, (-1.0) ** (difference + 1))
        return (2 * i[:, None] + 1) * signs / self.length, (2 * i + 1) * (-1.0) ** i / self.length

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return legendre(order, 2 * (now - times) / self.length - 1)


@dataclass(frozen=True)
class ChebT(Translated):
    """Translated Chebyshev: the last `length` units of time, its two ends weighted most, by the arcsine law.

    The basis is that of Chebyshev polynomials, √2 T_n(y) with y = 2(x−t)/θ + 1. The weight is infinite at the window's
    ends, so the dynamics cannot be integrated by parts as LegT's are. They follow from the same idea: between two
    moments the remembered polynomial is moved along, and what then lacks is made up by a multiple of
    q = (T_N + T_{N−1})/2, which is 1 now and 0 at the window's beginning,

        dc/dt = (2/θ) ⟨d/dy [f̂ + (f(t) − f̂(t)) q], g⟩.

    With Legendre polynomials in place of Chebyshev's this is LegT, every entry. (Appendix D of arXiv 2008.07669 tilts
    the measure instead; a tilted memory cannot be read at the window's ends.)
    """

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        n = _index(order + 1)
        # T_n' = 2n (T_{n−1} + T_{n−3} + …), where T_0 counts half: column n of `derivative`, in coefficients of T_k.
        below = (n > n[:, None]) & ((n - n[:, None]) % 2 == 1)
        derivative = torch.where(below, 2 * n, 0.0)
        derivative[0] /= 2
        correction = (derivative[:order, order] + derivative[:order, order - 1]) / 2
        scale = _chebyshev_norms(order)
        A = (derivative[:order, :order] - correction[:, None]) * scale / scale[:, None]
        return 2 * A / self.length, 2 * correction / scale / self.length

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        angle = torch.arccos((2 * (times - now) / self.length + 1).clamp(-1, 1))
        return _chebyshev_norms(order).to(times) * torch.cos(_index(order).to(times) * angle.unsqueeze(-1))

    def weight(self, times: Tensor, now: float) -> Tensor:
        lag = (now - times) / self.length
        return 1 / (math.pi * self.length * torch.sqrt(lag * (1 - lag)))


@dataclass(frozen=True)
class FouT(Translated):
    """Translated Fourier: the last `length` units of time, weighted evenly, as a Fourier series (Appendix D ibid.).

    The basis is 1, then √2 cos 2πj(t−x)/θ and √2 sin 2πj(t−x)/θ for j = 1, 2, …. A series is, where the window closes
    on itself, the mean of its two ends, hence f(t−θ) is read as 2 f̂ − f(t). Frequencies come in pairs, so an even
    order leaves the last coefficient at 0.
    """

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        now = self.basis(order, torch.zeros((), dtype=torch.float64, device=CPU), 0.0)
        rotation = torch.zeros(order, order, dtype=torch.float64, device=CPU)
        cosine = torch.arange(1, max(order - 1, 1), 2, device=CPU)
        rotation[cosine, cosine + 1] = -math.pi * (cosine + 1).double()
        rotation[cosine + 1, cosine] = math.pi * (cosine + 1).double()
        return (rotation - 2 * now[:, None] * now) / self.length, 2 * now / self.length

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        n = torch.arange(order, device=times.device)
        frequency = ((n + 1) // 2).to(times.dtype)  # times a number, integers would become the default dtype
        angle = 2 * math.pi * frequency * ((now - times) / self.length).unsqueeze(-1)
        wave = math.sqrt(2) * torch.where(n % 2 == 1, torch.cos(angle), torch.sin(angle))
        unpaired = (n == order - 1) & (n % 2 == 1)
        return torch.where(n == 0, 1.0, torch.where(unpaired, 0.0, wave)).to(times)


@dataclass(frozen=True)
class LagT(Translated):
    """Translated Laguerre: the whole past, with a weight that decays exponentially (Appendix D ibid.).

    With the lag s = (t−x)/θ, the weight is Γ(α+1) s^−α e^−βs / θ and the basis s^α e^−(1−β)s/2 L_n^(α)(s), normalized:
    Laguerre polynomials, tilted unless β = 1 and α = 0. That untilted form is the default, as in Theorem 1: its weight
    is a probability, c_0 an exponential mean, and with one coefficient the memory is a gated recurrence. The other
    extreme, β = 0, has the Laguerre functions and weights the whole past alike: N of them reach back about 4Nθ, where
    the others have forgotten all. Public code has that one, and `model=lagt`.

    Args:
        length: The time constant θ.
        alpha: α > −1.
        beta: β ≥ 0.
    """

    alpha: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (_real(self.alpha, self.beta) and -1 < self.alpha < math.inf and 0 <= self.beta < math.inf):
            raise ValueError(f"LagT needs alpha > -1 and beta >= 0, not {self.alpha!r} and {self.beta!r}")

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        scale = self._norms(order)
        A = -torch.tril(scale / scale[:, None], diagonal=-1)
        return (A - torch.diag(torch.full_like(scale, (1 + self.beta) / 2))) / self.length, scale / self.length

    def window(self, now: float) -> tuple[float, float]:
        return -math.inf, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        s, a = (now - times) / self.length, self.alpha
        # L_n e^−s/2 is bounded, its factors are not: beyond s = 1500 one overflows and the other vanishes.
        scale = (self.beta - 1) * s / 2 - math.lgamma(a + 1) + (a * torch.log(s) if a else 0)
        before, value, values = torch.zeros_like(s), torch.ones_like(s), []
        for n in range(order):
            values.append(value * torch.exp(scale))
            after = ((2 * n + 1 + a - s) * value - (n + a) * before) / (n + 1)
            size = torch.maximum(after.abs(), value.abs()).clamp(min=1)
            before, value, scale = value / size, after / size, scale + torch.log(size)
        return torch.stack(values, dim=-1) / self._norms(order).to(s)

    def weight(self, times: Tensor, now: float) -> Tensor:
        s = (now - times) / self.length
        return math.gamma(self.alpha + 1) * s ** (-self.alpha) * torch.exp(-self.beta * s) / self.length

    def _norms(self, order: int) -> Tensor:
        """√C(n+α, n): the norm of L_n^(α) under s^α e^−s / Γ(α+1), and the root of its value at 0."""
        n = _index(order)
        return torch.exp((torch.lgamma(n + self.alpha + 1) - torch.lgamma(n + 1) - math.lgamma(self.alpha + 1)) / 2)


@dataclass(frozen=True)
class Rand(Translated):
    """No measure at all: random dynamics, the control that shows what a memory owes to its matrices.

    A = (0.9 G/‖G‖₂ − I)/θ and B = b/θ with standard normal entries in G and b: a contraction, at every order.

    Args:
        length: The time constant θ.
        seed: Seed of A and B, which are not trained.

    Raises:
        ValueError: If it is asked for its basis or weight, which it has not.
    """

    seed: int = 0

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(CPU).manual_seed(self.seed)
        G = torch.randn(order, order + 1, dtype=torch.float64, device=CPU, generator=generator)
        A = 0.9 * G[:, 1:] / torch.linalg.matrix_norm(G[:, 1:], 2) - torch.eye(order, dtype=torch.float64, device=CPU)
        return A / self.length, G[:, 0] / self.length

    def window(self, now: float) -> tuple[float, float]:
        return -math.inf, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        raise ValueError("a random memory has no basis: what it holds cannot be read back")

    def weight(self, times: Tensor, now: float) -> Tensor:
        raise ValueError("a random memory has no measure")


def by_name(name: str) -> Measure:
    """Return a measure that has no parameters by its name. Raises ValueError for any other name."""
    if name == "legs":
        return LegS()
    raise ValueError(
        f"unknown measure {name!r}; legs goes by its name, others are given as objects: LegT(length=200); in a "
        "configuration, choose model=legt"
    )


def legendre(order: int, x: Tensor) -> Tensor:
    """Return the Legendre polynomials P_0, …, P_{N-1} at x of shape (...), as a tensor (..., N)."""
    return jacobi(order, x, 0.0)


def jacobi(order: int, x: Tensor, power: float) -> Tensor:
    """Return Jacobi's polynomials P_0^(0,a), …, P_{N-1}^(0,a) of a = power at x of shape (...), as a tensor (..., N):
    those that are orthogonal under (1 + x)^a on [−1, 1], and 1 at x = 1."""
    values = [torch.ones_like(x), ((2 + power) * x - power) / 2]
    for n in range(1, order - 1):
        twice = 2 * n + power
        ratio = (twice + 2) / (2 * (n + 1 + power))  # 1 of Legendre's, as are all quotients below without rounding
        slope, shift = ratio * (twice + 1), ratio * (twice + 1) * power**2 / (twice * (twice + 2))
        values.append(((slope * x - shift) * values[n] - ratio * 2 * n * (n + power) / twice * values[n - 1]) / (n + 1))
    return torch.stack(values[:order], dim=-1)


def _chebyshev_norms(order: int) -> Tensor:
    """1, √2, √2, …, which makes T_n orthonormal under the arcsine law."""
    norms = torch.full((order,), math.sqrt(2), dtype=torch.float64, device=CPU)
    norms[0] = 1
    return norms


def _legendre_norms(order: int) -> Tensor:
    """√(2n+1), which makes P_n orthonormal on an interval with the uniform probability measure."""
    return torch.sqrt(2 * _index(order) + 1)


def _index(order: int) -> Tensor:
    """0, 1, …, N−1 in float64."""
    return torch.arange(order, dtype=torch.float64, device=CPU)


def _real(*values: Any) -> bool:
    """Return whether values are real numbers: a configuration may hold a text."""
    return all(isinstance(value, numbers.Real) for value in values)
