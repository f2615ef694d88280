"""Measures from any weight: say how much each moment of the past matters, and get the memory that is optimal for it.

With s the place in the window, 0 its beginning and 1 now, let ω be a density on [0, 1] and p_0, p_1, … its orthonormal
polynomials. The coefficients c_n = ∫ f p_n ω ds of the past follow dc/dt = (A c + B f)/t where the window is all the
past, and dc/dt = (A c + B f)/θ where it is the last θ. Integration by parts gives (arXiv 2008.07669, Appendix B)

    A_nm = ∫ s^k p_m' p_n ω ds − ω(1) p_n(1) p_m(1),   B_n = ω(1) p_n(1),   k = 1 for all the past, 0 for a window,

where a window's f(t − θ) is read from the memory itself, the one approximation made. Where the past fades without an
end, s = (t − x)/θ is the age of a moment, ω lies on [0, ∞), and with signs that make all p_n(0) positive

    A_nm = −∫ p_m' p_n ω ds − ω(0) p_n(0) p_m(0),   B_n = ω(0) p_n(0).

For all the past the system is closed if s p_n ω' is a polynomial of degree N − 1 at most times ω for each n < N, as for
ω = s^a; for a past that fades, if p_n ω' is one, as for ω = e^−s: then every coefficient is exact. Else A is a Galerkin
truncation, and `leak` says how much of the dynamics it leaves out.

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
_Nodes = tuple[np.ndarray, np.ndarray, dict[float, np.ndarray]]  # (M,), roots of their weights, distances from ends
_MOST = 2048  # of them


def uniform(s: np.ndarray) -> np.ndarray:
    """Every moment counts the same."""
    return np.ones_like(s)


class _End(NamedTuple):
    """Where an interval ends, and p_{n+1}/p_n there, (N,)."""

    at: float
    ratios: np.ndarray


class Polynomials(NamedTuple):
    """Orthonormal polynomials p_0, …, p_N of a density, N + 1 of them: β_{n+1} p_{n+1} = (s − α_n) p_n − β_n p_{n−1}.

    Attributes:
        beta: β_0 = 0, β_1, …, β_N, (N + 1,).
        ends: Of the interval.
        nodes: Of a rule that is exact for the products of two of the polynomials, (M,).
        roots: Square roots of its weights, which sum to 1.
        at_nodes: p_n √w at the nodes, (M, N + 1).
        total: The integral of the density that was given.
    """

    beta: np.ndarray
    ends: tuple[_End, ...]
    nodes: np.ndarray
    roots: np.ndarray
    at_nodes: np.ndarray
    total: float

    def values(self, s: np.ndarray) -> np.ndarray:
        """Return p_n(s) at s (…), as (…, N + 1)."""
        return self._read(s, slopes=False)

    def slopes(self, s: np.ndarray) -> np.ndarray:
        """Return p_n'(s) at s (…), as (…, N + 1)."""
        return self._read(s, slopes=True)

    def _read(self, s: np.ndarray, slopes: bool) -> np.ndarray:
        """Begin from the end that is nearer, but where the polynomials are so large there that a small value's digits
        would be lost: as at the light end of a weight."""
        s = np.asarray(s, dtype=np.float64)
        first, *other = (self._from(end, s, slopes) for end in self.ends)
        if not other:
            return first[0]
        (left, off_left), (right, off_right) = first, other[0]
        nearer = (s <= 0.5 * (self.ends[0].at + self.ends[1].at))[..., None]
        with np.errstate(invalid="ignore"):
            return np.where(np.where(nearer, off_left <= 100 * off_right, off_right > 100 * off_left), left, right)

    def _from(self, end: _End, s: np.ndarray, slopes: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return values or slopes, and sizes to which their errors are in proportion.

        The recurrence runs on the differences of q_n = p_n/p_n(end), and so keeps its digits near the end, where the
        one above loses eight of them at N = 256.
        """
        count, away = len(self.beta), s - end.at
        found, sizes = np.empty((*s.shape, count)), np.empty((*s.shape, count))
        q, change, size = np.ones_like(s), np.zeros_like(s), np.ones_like(s)
        slope, its_change = np.zeros_like(s), np.zeros_like(s)
        scale = np.concatenate([[1.0], end.ratios]).cumprod()
        with np.errstate(over="ignore", invalid="ignore"):
            for n in range(count):
                found[..., n], sizes[..., n] = scale[n] * (slope if slopes else q), abs(scale[n]) * size
                if n + 1 == count:
                    break
                before = self.beta[n] / end.ratios[n - 1] if n else 0.0
                pivot = self.beta[n + 1] * end.ratios[n]
                its_change = (q + away * slope + before * its_change) / pivot
                change = (away * q + before * change) / pivot
                q, slope = q + change, slope + its_change
                size = np.maximum(size, abs(q))
        return found, sizes


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


@functools.lru_cache(maxsize=8)
def _gauss(count: int, now: float, begin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Gauss's nodes s for s^begin (1 − s)^now, normalized, 1 − s, and the weights: by eigenvalues, a step of
    Newton's, and Christoffel's formula."""
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
    step = value / (slope * np.sqrt(_integral(a, b) / _integral(a + 1, b + 1)))
    return s - step, (1 - s) + step, 1 / (_jacobi(count, a, b, s - step) ** 2).sum(-1)


@functools.lru_cache(maxsize=32)
def orthonormal(density: Density, begin: float, now: float, order: int) -> Polynomials:
    """Return the orthonormal polynomials up to degree `order` of s^begin (1 − s)^now · density(s) on [0, 1].

    Args:
        density: Smooth, and at least 0, on [0, 1]; positive somewhere.
        begin: Exponent at the window's beginning, above −1.
        now: Exponent at the present, above −1.
        order: N.

    Raises:
        ValueError: If the density is negative or not finite at a node, or 0 at nearly all of them, or changes too fast
            to be integrated, or an exponent is not above −1.
    """
    if not (begin > -1 and now > -1):
        raise ValueError(f"a weight's exponents must be above -1 for it to be integrable, not {begin} and {now}")

    def ruled(count: int) -> _Nodes:
        s, rest, weights = _gauss(count, now, begin)
        return s, np.sqrt(weights * _checked(density, s)), {0.0: s, 1.0: rest}

    found = _resolved(density, ruled, 2 * order + 64, order)
    return found._replace(total=found.total * _integral(now, begin))


@functools.lru_cache(maxsize=32)
def fading(density: Density, order: int) -> Polynomials:
    """Return the orthonormal polynomials up to degree `order` of e^−s density(s) on [0, ∞).

    In the root of s their zeros are even, and as many nodes of Gauss and Legendre as they need reach to where the
    polynomials times the root of e^−s are nothing.

    Raises:
        ValueError: As `orthonormal`.
    """
    reach = math.sqrt(4 * order + 60 * np.cbrt(order) + 150)

    def ruled(count: int) -> _Nodes:
        y, _, weights = _gauss(count, 0.0, 0.0)
        s = (y * reach) ** 2
        with np.errstate(over="ignore"):
            factor = _checked(density, s)
        return s, np.exp(-s / 2) * np.sqrt(2 * y * reach**2 * weights * factor), {0.0: s}

    found = _resolved(density, ruled, 4 * order + 200, order)
    if not abs(found.at_nodes[-1]).max() < 1e-12:
        raise ValueError(
            f"{_name(density)} grows too fast: e^-s times it is not yet next to nothing at s = {reach**2:.0f}"
        )
    return found


def _resolved(density: Density, ruled: Callable[[int], _Nodes], count: int, order: int) -> Polynomials:
    """Return polynomials on as many nodes as it takes for them to be orthonormal by other nodes as well.

    Args:
        density: For messages.
        ruled: Gives a rule of so many nodes.
        count: To begin with.
        order: N.

    Raises:
        ValueError: If the most nodes do not do.
    """
    count = max(count, 256)  # lest a peak stand between nodes
    while True:
        s, roots, distances = ruled(count)
        found, off = None, math.inf
        if (roots > 0).sum() > order + 1:
            found = _lanczos(s, roots, distances, order)
            s, roots, _ = ruled(count + count // 3 + 1)
            there = roots > 0
            values = found.values(s[there]) * (roots[there, None] / math.sqrt(found.total))
            off = abs(values.T @ values - np.eye(order + 1)).max()
        if off < 1e-12 or count >= _MOST:
            break
        count = min(2 * count, _MOST)
    if found is None:
        raise ValueError(f"{_name(density)} is 0 nearly everywhere: it has no {order} polynomials")
    if not off < 1e-3:  # nor NaN
        raise ValueError(
            f"{_name(density)} changes too fast for {order} polynomials to be found: smooth it, or take fewer "
            "coefficients or a shorter window"
        )
    return found


def _name(density: Density) -> str:
    return getattr(density, "__name__", str(density))


def _checked(density: Density, s: np.ndarray) -> np.ndarray:
    factor = np.asarray(density(s), dtype=np.float64)
    if factor.shape != s.shape or not np.isfinite(factor).all() or (factor < 0).any():
        raise ValueError(f"{_name(density)} must return a finite number of at least 0 for each moment, as of an array")
    return factor


def _lanczos(s: np.ndarray, roots: np.ndarray, distances: dict[float, np.ndarray], order: int) -> Polynomials:
    """Return the polynomials of a discrete density: the discretized Stieltjes procedure (Gautschi 2004, section 2.2),
    on polynomials times roots of weights, which do not overflow.

    At an end e, what (e − s) K_n(s)² comes to, K_n(s) = Σ_{m≤n} p_m(e) p_m(s), is β_{n+1} p_{n+1}(e) p_n(e) by the
    formula of Christoffel and Darboux: a sum without cancellation, unlike the recurrence.
    """
    total = float((roots**2).sum())
    roots = roots / math.sqrt(total)
    found, betas, before = [roots], [0.0], np.zeros_like(s)
    kernels, ratios = dict.fromkeys(distances, roots), {end: [] for end in distances}
    for _ in range(order):
        value = found[-1]
        after = (s - (s * value**2).sum()) * value - betas[-1] * before
        before, beta = value, float(np.linalg.norm(after))
        betas.append(beta)
        found.append(after / beta)
        for end, distance in distances.items():
            ratio = (1 if end else -1) * (distance * kernels[end] ** 2).sum() / beta
            ratios[end].append(ratio)
            kernels[end] = kernels[end] / ratio + found[-1]
    ends = tuple(_End(end, np.array(of_end)) for end, of_end in ratios.items())
    return Polynomials(np.array(betas), ends, s, roots, np.stack(found, axis=1), total)


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
        """Return which share of what moves the first N coefficients, among the first 2N, are those that are not kept:
        from 0 (a closed system) to 1."""
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
        """Return which share of what moves the first N coefficients, among the first 2N, are those that are not kept:
        from 0 (a closed system) to 1, beside the reading of f(t − θ) from the memory.

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


@dataclass(frozen=True)
class Fading(Translated):
    """All the past, a moment of age s θ weighted by ω(s) = e^−s · density(s), normalized.

    `Fading(θ)` is `hippo.measures.LagT(θ)` by the general formulas.

    Args:
        length: The time constant θ.
        density: Smooth and at least 0 on [0, ∞), where it may not grow as fast as e^s falls, and above 0 at 0, the
            present. Vectorized, of NumPy arrays.

    Raises:
        ValueError: If a parameter is beyond its range, or the weight is none.
    """

    density: Density = uniform

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_present(self.density, 0.0)
        fading(self.density, 1)

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        whole, B = self._whole(order, order)
        A = np.tril(whole) if self.density is uniform else whole  # what stands above the diagonal is rounding
        return torch.from_numpy(A / self.length), torch.from_numpy(B / self.length)

    def leak(self, order: int) -> float:
        """Return which share of what moves the first N coefficients, among the first 2N, are those that are not kept:
        from 0 (a closed system) to 1."""
        whole, _ = self._whole(order, 2 * order)
        return float(np.linalg.norm(whole[:, order:]) / np.linalg.norm(whole))

    def window(self, now: float) -> tuple[float, float]:
        return -math.inf, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        values = _values(fading(self.density, order), order, (now - times) / self.length)
        return values * (-1.0) ** torch.arange(order, dtype=values.dtype, device=values.device)

    def weight(self, times: Tensor, now: float) -> Tensor:
        age = (now - times).detach().to("cpu", torch.float64).numpy() / self.length
        density = np.exp(-age) * np.asarray(self.density(age)) / (fading(self.density, 1).total * self.length)
        return torch.from_numpy(density).to(times)

    def _whole(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return A (rows, columns) and B (rows,), of θ = 1."""
        found, signs = fading(self.density, columns), (-1.0) ** np.arange(columns)
        now = signs * found.values(np.zeros(()))[:columns]
        present = float(self.density(np.zeros(1))[0]) / found.total
        moved = signs[:rows, None] * _moved(found, rows, columns, power=0) * signs
        return -moved - present * now[:rows, None] * now, present * now[:rows]


def _check_present(density: Density, present: float = 1.0) -> None:
    if not math.isfinite(there := float(density(np.full(1, present))[0])):
        raise ValueError(f"{_name(density)} must return a finite number at the present, not {there}")
    if not there > 0:
        raise ValueError(
            f"{_name(density)} weighs the present at 0, so that the memory would learn nothing; add a little to it"
        )


def _moved(found: Polynomials, rows: int, columns: int, power: int) -> np.ndarray:
    """Return ∫ s^power p_m' p_n ω ds, (rows, columns)."""
    there = found.roots > 0  # elsewhere slopes may overflow
    slopes = found.slopes(found.nodes[there])[:, :columns]
    moved = found.at_nodes[there, :rows].T @ ((found.roots * found.nodes**power)[there, None] * slopes)
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
    whole[:, order:] += oldest * begin[:order, None] * begin[order:width]
    return float(np.linalg.norm(whole[:, order:]) / np.linalg.norm(whole))


def _values(found: Polynomials, order: int, s: Tensor) -> Tensor:
    values = found.values(s.detach().to("cpu", torch.float64).numpy())
    return torch.from_numpy(values[..., :order]).to(s)


def _weight(density: Density, begin: float, now: float, s: Tensor) -> Tensor:
    numbers = s.detach().to("cpu", torch.float64).numpy()
    total = orthonormal(density, begin, now, 1).total
    with np.errstate(divide="ignore"):  # a weight may be infinite at an end
        return torch.from_numpy(numbers**begin * (1 - numbers) ** now * np.asarray(density(numbers)) / total).to(s)
