"""Measures from any weight: say how much each moment of the past matters, and get the memory that is optimal for it.

With s the place in the window, 0 its beginning and 1 now, let ω be a density on [0, 1] and p_0, p_1, … its orthonormal
polynomials. The coefficients c_n = ∫ f p_n ω ds of the past follow dc/dt = (A c + B f)/t where the window is all the
past, and dc/dt = (A c + B f)/θ where it is the last θ. Integration by parts gives (arXiv 2008.07669, Appendix B)

    A_nm = ∫ s^k p_m' p_n ω ds − ω(1) p_n(1) p_m(1),   B_n = ω(1) p_n(1),   k = 1 for all the past, 0 for a window,

where a window's f(t − θ) is read from the memory itself, the one approximation made. For all the past the system is
closed if s^k p_m' ω' lies in the span of the first N functions p_n ω, as for ω = s^a: then every coefficient is exact.
Else A is a Galerkin truncation, and `leak` says how much of the dynamics it leaves out.

A *tilted* memory of all the past has c_n = ∫ f p_n ds instead and reads f as Σ c_n p_n ω, the best approximation under
1/ω (ibid., tilted by χ = ω). Its functions are polynomials whatever ω is, so it is closed for every weight:

    A_nm = −δ_nm − ∫ s p_n' p_m ω ds,   B_n = p_n(1).

What it reads vanishes where ω does. (A tilted window would read f(t − θ) so, and be wrong there: there is none.)
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from hippo.measures import Measure, Translated

Density = Callable[[np.ndarray], np.ndarray]


def uniform(s: np.ndarray) -> np.ndarray:
    """Every moment counts the same."""
    return np.ones_like(s)


class Polynomials(NamedTuple):
    """Orthonormal polynomials p_0, …, p_N of a density on [0, 1], N + 1 of them.

    Attributes:
        mix: p_n in the orthonormal Jacobi polynomials of the density's two powers, (N + 1, N + 1), a column each.
        begin, now: Exponents of the powers.
        nodes, weights: A Gauss rule for the density, exact for the products of two of the polynomials, (M,).
        total: The integral of the density that was given; the rule, and the polynomials with it, make it 1.
    """

    mix: np.ndarray
    begin: float
    now: float
    nodes: np.ndarray
    weights: np.ndarray
    total: float

    def values(self, s: np.ndarray) -> np.ndarray:
        """Return p_n(s) at s (…), as (…, N + 1)."""
        return _jacobi(len(self.mix), self.now, self.begin, s) @ self.mix

    def slopes(self, s: np.ndarray) -> np.ndarray:
        """Return p_n'(s) at s (…), as (…, N + 1)."""
        n = np.arange(1, len(self.mix))
        lower = _jacobi(len(n), self.now + 1, self.begin + 1, s) * np.sqrt(n * (n + self.now + self.begin + 1))
        # Both are orthonormal, each under the probability density of its powers.
        lower *= np.sqrt(_integral(self.now, self.begin) / _integral(self.now + 1, self.begin + 1))
        return lower @ self.mix[1:]


def _integral(now: float, begin: float) -> float:
    """Return ∫ s^begin (1 − s)^now ds over [0, 1]."""
    return math.exp(math.lgamma(begin + 1) + math.lgamma(now + 1) - math.lgamma(begin + now + 2))


def _jacobi(count: int, now: float, begin: float, s: np.ndarray) -> np.ndarray:
    """Return the polynomials that are orthonormal under s^begin (1 − s)^now, normalized, at s (…), as (…, count).

    The recurrence runs on differences from the value at the end that is nearer, and so keeps its digits there. (SciPy's
    own is wrong in a process that flushes denormal numbers, as training does.)
    """
    s = np.asarray(s, dtype=np.float64)
    right, left = (_from_the_end(count, *powers, away) for powers, away in (((now, begin), s - 1), ((begin, now), -s)))
    return np.where(s[..., None] > 0.5, right, (-1.0) ** np.arange(count) * left)


def _from_the_end(count: int, a: float, b: float, away: np.ndarray) -> np.ndarray:
    """Return orthonormal Jacobi polynomials at 1 + 2 away, which is at most 0 and above −1, as (…, count)."""
    n = np.arange(2, count)
    # p_n(1)² from one degree to the next.
    first = (1 + a) * (a + b + 3) / (1 + b)
    ratios = (n + a) * (n + a + b) * (2 * n + a + b + 1) / (n * (n + b) * (2 * n + a + b - 1))
    scale = np.sqrt(np.cumprod(np.concatenate([[1.0, first], ratios])))[:count]
    values = np.ones((*away.shape, count))
    value, change = np.ones_like(away), np.zeros_like(away)
    for k in range(count - 1):
        t = 2 * k + a + b
        if k == 0:
            change = (a + b + 2) * away / (a + 1)
        else:
            change = t * (t + 1) * (t + 2) * 2 * away * value + 2 * k * (k + b) * (t + 2) * change
            change = change / (2 * (k + a + 1) * (k + a + b + 1) * t)
        value = value + change
        values[..., k + 1] = value
    return values * scale


def _nodes(count: int, now: float, begin: float) -> np.ndarray:
    """Return the zeros on [0, 1] of the Jacobi polynomial of degree `count`: eigenvalues, and a step of Newton's."""
    a, b, k = now, begin, np.arange(count, dtype=np.float64)
    t = 2 * k + a + b
    with np.errstate(divide="ignore", invalid="ignore"):
        diagonal = (b**2 - a**2) / (t * (t + 2))
        squared = 4 * k * (k + a) * (k + b) * (k + a + b) / (t**2 * (t + 1) * (t - 1))
    diagonal[0] = (b - a) / (a + b + 2)
    squared[1:2] = 4 * (1 + a) * (1 + b) / ((2 + a + b) ** 2 * (3 + a + b))
    eigenvalues = np.asarray(scipy.linalg.eigvalsh_tridiagonal(diagonal, np.sqrt(squared[1:])))
    s = (eigenvalues + 1) / 2
    value = _jacobi(count + 1, a, b, s)[:, -1]
    slope = _jacobi(count, a + 1, b + 1, s)[:, -1] * np.sqrt(count * (count + a + b + 1))
    return s - value / (slope * np.sqrt(_integral(a, b) / _integral(a + 1, b + 1)))


@functools.lru_cache(maxsize=32)
def orthonormal(density: Density, begin: float, now: float, order: int) -> Polynomials:
    """Return the orthonormal polynomials up to degree `order` of s^begin (1 − s)^now · density(s).

    The discretized Stieltjes procedure (Gautschi 2004, section 2.2), on a Gauss rule of the two powers with enough
    nodes that a smooth density is integrated to rounding, gives them at the nodes. Values elsewhere come from Jacobi
    polynomials, since the recurrence loses digits at the ends: eight of them at N = 256.

    Args:
        density: Smooth, and at least 0, on [0, 1]; positive somewhere.
        begin: Exponent at the window's beginning, above −1.
        now: Exponent at the present, above −1.
        order: N.

    Raises:
        ValueError: If the density is negative or not finite at a node, or 0 at nearly all of them, or an exponent is
            not above −1.
    """
    if not (begin > -1 and now > -1):
        raise ValueError(f"a weight's exponents must be above -1 for it to be integrable, not {begin} and {now}")
    count = 2 * order + 64
    s = _nodes(count, now, begin)
    jacobi = _jacobi(count, now, begin, s)
    w = 1 / (jacobi**2).sum(-1)  # Christoffel's formula
    factor = np.asarray(density(s), dtype=np.float64)
    name = getattr(density, "__name__", density)
    if factor.shape != s.shape or not np.isfinite(factor).all() or (factor < 0).any():
        raise ValueError(f"{name} must return a finite number of at least 0 for each s in [0, 1]")
    if (factor > 0).sum() <= order + 1:
        raise ValueError(f"{name} is 0 nearly everywhere: it has no {order} polynomials")
    mean = (w * factor).sum()
    weights = w * factor / mean
    found, before = [np.ones_like(s)], np.zeros_like(s)
    beta = 0.0
    for _ in range(order):
        value = found[-1]
        after = (s - (weights * s * value**2).sum()) * value - beta * before
        beta = np.sqrt((weights * after**2).sum())
        before = value
        found.append(after / beta)
    mix = np.triu(jacobi[:, : order + 1].T @ (w[:, None] * np.stack(found, axis=1)))
    return Polynomials(mix, begin, now, s, weights, mean * _integral(now, begin))


@dataclass(frozen=True)
class Scaled(Measure):
    """All the past [0, t], a moment x weighted by ω(x/t) = (x/t)^begin · density(x/t), normalized.

    `Scaled(begin=a)` is `hippo.measures.JacS` by the general formulas, and its memory is computed like that one: exact,
    and at O(N) a step. Like LegS, none of these memories has a time scale of its own.

    Args:
        begin: Exponent a > −1 at the window's beginning.
        density: Smooth and at least 0 on [0, 1], and above 0 at 1, the present. Vectorized, of NumPy arrays.
        tilted: Whether the memory is the tilted one, optimal under 1/ω.

    Raises:
        ValueError: If the weight is none, or weighs the present at 0, so that the memory would learn nothing.
    """

    scale_invariant: ClassVar[bool] = True
    begin: float = 0.0
    density: Density = uniform
    tilted: bool = False

    def __post_init__(self) -> None:
        _check_present(self.density)
        orthonormal(self.density, self.begin, 0.0, 1)

    @property
    def scaled_power(self) -> float | None:
        return self.begin if self.density is uniform and not self.tilted else None

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        found = orthonormal(self.density, self.begin, 0.0, order)
        if self.tilted:
            A = -np.eye(order) - _moved(found, order, order, power=1).T
            return torch.from_numpy(A), torch.from_numpy(found.values(np.ones(()))[:order].copy())
        A, B = _by_parts(found, order, power=1, present=float(self.density(np.ones(1))[0]) / found.total)
        if self.density is uniform:  # exactly closed: what stands above the diagonal is rounding
            A = np.tril(A)
        return torch.from_numpy(A), torch.from_numpy(B)

    def leak(self, order: int) -> float:
        """Return which share of the dynamics leads out of the first N coefficients, from 0 (a closed system) to 1."""
        if self.tilted:
            return 0.0
        found = orthonormal(self.density, self.begin, 0.0, 2 * order)
        return _leak(found, order, power=1, present=float(self.density(np.ones(1))[0]) / found.total, oldest=0.0)

    def window(self, now: float) -> tuple[float, float]:
        return 0.0, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        values = _values(orthonormal(self.density, self.begin, 0.0, order), order, times / now)
        return values * _weight(self.density, self.begin, 0.0, times / now).unsqueeze(-1) if self.tilted else values

    def weight(self, times: Tensor, now: float) -> Tensor:
        """The density of μ: normalized, but for the tilted memory's 1/ω."""
        density = _weight(self.density, self.begin, 0.0, times / now)
        return (1 / density if self.tilted else density) / now


@dataclass(frozen=True)
class Sliding(Translated):
    """The last `length` units of time, weighted by ω(s) = s^begin (1 − s)^now · density(s), normalized.

    With s = 0 at the window's beginning and 1 now: LegT where all is as it stands here, ChebT at begin = now = −1/2.
    Where ω is not finite at an end, or 0 at the present, the form above has no meaning. The memory then follows from
    ChebT's idea: the remembered polynomial is moved along, and what it lacks at the present is made up by a multiple of
    the polynomial of degree N in p_N and p_{N−1} that is 1 now and 0 at the window's beginning.

    Args:
        length: The window θ.
        begin: Exponent above −1 at the window's beginning.
        now: Exponent above −1 at the present.
        density: Smooth and at least 0 on [0, 1]. Vectorized, of NumPy arrays.

    Raises:
        ValueError: If a parameter is beyond its range, or the weight is none.
    """

    begin: float = 0.0
    now: float = 0.0
    density: Density = uniform

    def __post_init__(self) -> None:
        super().__post_init__()
        orthonormal(self.density, self.begin, self.now, 1)
        if self._by_parts:
            _check_present(self.density)

    @property
    def _by_parts(self) -> bool:
        return self.now == 0 and self.begin >= 0

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        found = orthonormal(self.density, self.begin, self.now, order)
        if self._by_parts:
            A, B = _by_parts(found, order, power=0, present=float(self.density(np.ones(1))[0]) / found.total)
        else:
            A, B = _by_correction(found, order)
        return torch.from_numpy(A / self.length), torch.from_numpy(B / self.length)

    def leak(self, order: int) -> float:
        """Return which share of the dynamics leads out of the first N coefficients, from 0 (a closed system) to 1,
        beside the reading of f(t − θ) from the memory.

        Raises:
            ValueError: If the weight is not finite at an end, or 0 at the present, where this is not defined.
        """
        if not self._by_parts:
            raise ValueError("the leak of a weight that is infinite at an end, or 0 at the present, is not defined")
        found = orthonormal(self.density, self.begin, self.now, 2 * order)
        begin, end = (float(self.density(np.full(1, s))[0]) / found.total for s in (0.0, 1.0))
        return _leak(found, order, power=0, present=end, oldest=0.0 if self.begin else begin)

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _values(orthonormal(self.density, self.begin, self.now, order), order, (times - now) / self.length + 1)

    def weight(self, times: Tensor, now: float) -> Tensor:
        return _weight(self.density, self.begin, self.now, (times - now) / self.length + 1) / self.length


def _check_present(density: Density) -> None:
    if not float(density(np.ones(1))[0]) > 0:
        raise ValueError(
            f"{getattr(density, '__name__', density)} weighs the present at 0, so that the memory would learn nothing; "
            "add a little to it"
        )


def _moved(found: Polynomials, rows: int, columns: int, power: int) -> np.ndarray:
    """Return ∫ s^power p_m' p_n ω ds, (rows, columns)."""
    values, slopes = found.values(found.nodes)[:, :rows], found.slopes(found.nodes)[:, :columns]
    moved = values.T @ ((found.weights * found.nodes**power)[:, None] * slopes)
    return np.triu(moved, 1 - power)  # s^power p_m' has degree m − 1 + power: what is below is rounding


def _by_parts(found: Polynomials, order: int, power: int, present: float) -> tuple[np.ndarray, np.ndarray]:
    now = found.values(np.ones(()))[:order]
    return _moved(found, order, order, power) - present * now[:, None] * now, present * now


def _by_correction(found: Polynomials, order: int) -> tuple[np.ndarray, np.ndarray]:
    (begin, now), moved = found.values(np.array([0.0, 1.0])), _moved(found, order, order + 1, power=0)
    pair = np.linalg.solve(np.array([now[-2:], begin[-2:]]), np.array([1.0, 0.0]))  # of p_{N−1} and p_N
    correction = moved[:, order - 1 :] @ pair
    return moved[:, :order] - correction[:, None] * now[:order], correction


def _leak(found: Polynomials, order: int, power: int, present: float, oldest: float) -> float:
    (begin, now), width = found.values(np.array([0.0, 1.0])), 2 * order
    whole = _moved(found, order, width, power) - present * now[:order, None] * now[:width]
    beyond = (whole + oldest * begin[:order, None] * begin[:width])[:, order:]
    return float(np.linalg.norm(beyond) / np.linalg.norm(whole))


def _values(found: Polynomials, order: int, s: Tensor) -> Tensor:
    values = found.values(s.detach().to("cpu", torch.float64).numpy())
    return torch.from_numpy(values[..., :order]).to(s)


def _weight(density: Density, begin: float, now: float, s: Tensor) -> Tensor:
    numbers = s.detach().to("cpu", torch.float64).numpy()
    total = orthonormal(density, begin, now, 1).total
    with np.errstate(divide="ignore"):  # a weight may be infinite at an end
        return torch.from_numpy(numbers**begin * (1 - numbers) ** now * np.asarray(density(numbers)) / total).to(s)
