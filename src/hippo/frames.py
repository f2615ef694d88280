"""Memories in any functions: wavelets, Gabor functions, splines, one's own (SaFARi, arXiv 2505.08977).

With s the place in the window, 0 its beginning and 1 now, let F_0, F_1, … be functions on [0, 1], independent or not,
and D their dual frame, so that f = Σ c_n D_n with c_n = ∫ f F_n ds for every f they span. Integration by parts gives

    all the past:       t dc/dt = −c_n − Σ_m ∫ s F_n' D_m ds c_m + F_n(1) f,
    the last θ of it:   θ dc/dt = −Σ_m (∫ F_n' D_m ds + F_n(0) D_m(0)) c_m + F_n(1) f,

where a window's f(t − θ) is read from the memory itself, as Σ D_m(0) c_m. Functions that have one value at both ends
are *periodic*: their series is there the mean of f(t − θ) and f(t), so f(t − θ) is read as 2 Σ D_m(0) c_m − f(t). Where
derivatives lead out of the span, the system is a Galerkin truncation.

Derivatives are automatic ones, and integrals Gauss–Legendre sums piece by piece, so both are exact to rounding for what
is smooth between the ends of pieces, as sampled functions are, which stand for the straight lines between the samples.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hippo.measures import CPU, Measure, Translated

Functions = Callable[[int, Tensor], Tensor]
_INDEPENDENT = 1e-10  # of the Gram matrix's largest eigenvalue: what is below is a combination of the others


@dataclass(frozen=True, eq=False)
class Sampled:
    """Functions given by samples at equidistant places of [0, 1], both ends among them, and straight lines between.

    Args:
        samples: (M, N), M ≥ 2 places of N functions.

    Raises:
        ValueError: If samples are not finite, or not of that shape.
    """

    samples: Tensor

    def __post_init__(self) -> None:
        if self.samples.dim() != 2 or len(self.samples) < 2 or not torch.isfinite(self.samples).all():
            raise ValueError(f"samples must be finite and (places ≥ 2, functions), not {tuple(self.samples.shape)}")

    nodes: ClassVar[int] = 2  # of Gauss and Legendre, exact for s F_n' F_m on a piece

    @property
    def pieces(self) -> int:
        return len(self.samples) - 1

    def __call__(self, order: int, s: Tensor) -> Tensor:
        if order != self.samples.shape[1]:
            raise ValueError(f"these are {self.samples.shape[1]} functions, so the order is that, not {order}")
        samples, place = self.samples.to(s), s * self.pieces
        left = place.detach().floor().long().clamp(0, self.pieces - 1)
        return torch.lerp(samples[left], samples[left + 1], (place - left).unsqueeze(-1))


@dataclass(frozen=True)
class ScaledFrame(Measure):
    """All the past [0, t] in functions of one's own; with Legendre polynomials this is LegS.

    Args:
        functions: (order, s) ↦ F_n(s), (...) to (..., N), in operations of torch, s being float64; `Sampled`, or one's
            own. It stands for itself: of two memories with the same function all is computed once.
        pieces: Of [0, 1], all as long, with the places where a function or its derivative jumps among their ends; 64 by
            default, each with 64 nodes, which Legendre polynomials up to degree 256 need.
    """

    scale_invariant: ClassVar[bool] = True
    functions: Functions
    pieces: int | None = None

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        inverse, _, stretched, ends = _moments(self.functions, self.pieces, order)
        return -torch.eye(order, dtype=torch.float64, device=CPU) - stretched @ inverse, ends[1].clone()

    def window(self, now: float) -> tuple[float, float]:
        return 0.0, now

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _dual(self, order, times / now).to(times)

    def weight(self, times: Tensor, now: float) -> Tensor:
        return torch.full_like(times, 1 / now)


@dataclass(frozen=True)
class SlidingFrame(Translated):
    """The last `length` units of time in functions of one's own; with Legendre polynomials this is LegT, with those of
    a Fourier series, which are periodic, FouT.

    Args:
        length: The window θ.
        functions: As of `ScaledFrame`.
        pieces: As of `ScaledFrame`.
        periodic: Whether every function has one value at both ends.
    """

    functions: Functions = None  # type: ignore[assignment]
    pieces: int | None = None
    periodic: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.functions is None:
            raise ValueError("a frame needs its functions: SlidingFrame(length=…, functions=…)")

    def dynamics(self, order: int) -> tuple[Tensor, Tensor]:
        inverse, moved, _, (oldest, newest) = _moments(self.functions, self.pieces, order)
        if self.periodic and (oldest - newest).abs().max() > 1e-6 * newest.abs().max():
            raise ValueError("the functions of a periodic frame must have one value at both ends; these differ")
        times = 2 if self.periodic else 1
        A = -(moved + times * oldest.unsqueeze(-1) * oldest) @ inverse
        return A / self.length, (newest + oldest if self.periodic else newest.clone()) / self.length

    def basis(self, order: int, times: Tensor, now: float) -> Tensor:
        return _dual(self, order, (times - now) / self.length + 1).to(times)


def _dual(frame: ScaledFrame | SlidingFrame, order: int, s: Tensor) -> Tensor:
    """Return D_n(s) at s (...), as (..., N)."""
    inverse = _moments(frame.functions, frame.pieces, order)[0]
    return frame.functions(order, s.to("cpu", torch.float64)) @ inverse


@functools.lru_cache(maxsize=16)
def _moments(functions: Functions, pieces: int | None, order: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pseudo-inverse of ∫ F_n F_m, which makes dual functions of F; ∫ F_n' F_m; ∫ s F_n' F_m, all (N, N);
    and F at 0 and 1, (2, N)."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        pieces, nodes = pieces or getattr(functions, "pieces", 64), getattr(functions, "nodes", 64)
        x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
        edges = torch.arange(pieces, dtype=torch.float64).unsqueeze(-1)
        s = ((edges + (x + 1) / 2) / pieces).flatten()
        w = (w / 2 / pieces).expand(pieces, -1).reshape(-1, 1)
        ends = functions(order, torch.tensor([0.0, 1.0], dtype=torch.float64))
        values, slopes = torch.func.jvp(lambda s: functions(order, s), (s,), (torch.ones_like(s),))  # type: ignore[misc]
        for name, found in (("values", values), ("values at the ends", ends), ("slopes", slopes)):
            if found.shape[-1:] != (order,) or found.dtype != torch.float64 or not torch.isfinite(found).all():
                raise ValueError(
                    f"{name} of {getattr(functions, '__name__', functions)} must be finite float64 numbers "
                    f"(…, {order}), not {found.dtype} {tuple(found.shape)}"
                )
        gram = values.mT @ (w * values)
        inverse = torch.linalg.pinv(gram, rtol=_INDEPENDENT, hermitian=True)
        return inverse, slopes.mT @ (w * values), slopes.mT @ (w * s.unsqueeze(-1) * values), ends


def daubechies(vanishing: int, order: int, *, detail: int = 8) -> Sampled:
    """Return those translates of a Daubechies scaling function that reach into [0, 1], N of them, cut at its ends.

    Polynomials of degree below `vanishing` are combinations of them.

    Args:
        vanishing: Vanishing moments p from 2 to 10. (Haar's functions, p = 1, jump: they have no derivative.)
        order: Number of functions N > 2p − 2: the width of one is (2p − 1)/(N − 2p + 2).
        detail: Samples between two neighbours' beginnings, as a power of 2.

    Raises:
        ValueError: If an argument is beyond its range.
    """
    if not 2 <= vanishing <= 10 or order <= 2 * vanishing - 2 or not 0 <= detail <= 14:
        raise ValueError(
            f"a Daubechies frame has 2 to 10 vanishing moments p, more than 2p - 2 functions, and a detail of 0 to 14, "
            f"not {vanishing}, {order} and {detail}"
        )
    phi, support = _scaling(vanishing, detail), 2 * vanishing - 1
    each, cells = 2**detail, order - support + 1  # samples from one to the next; of these, how many fill [0, 1]
    samples = np.zeros((cells * each + 1, order))
    for n in range(order):
        begin = (n - support + 1) * each  # where phi's support begins
        inside = slice(max(begin, 0), min(begin + support * each, cells * each) + 1)
        samples[inside, n] = phi[inside.start - begin : inside.stop - begin]
    return Sampled(torch.from_numpy(samples * math.sqrt(cells)))


def _scaling(vanishing: int, detail: int) -> np.ndarray:
    """Return φ at k/2^detail over its support [0, 2p − 1]. At whole numbers φ(x) = √2 Σ h_k φ(2x − k) makes it an
    eigenvector; between them the same equation gives it."""
    h = _filter(vanishing)
    support = len(h) - 1
    n = np.arange(support)
    index = 2 * n[:, None] - n
    refine = np.where((index >= 0) & (index <= support), np.sqrt(2) * h[index.clip(0, support)], 0.0)
    values, vectors = np.linalg.eig(refine)
    phi = np.real(vectors[:, np.argmin(abs(values - 1))])
    phi = np.append(phi / phi.sum(), 0.0)
    for _ in range(detail):
        step = (len(phi) - 1) // support
        finer = np.zeros(2 * len(phi) - 1)
        for k, weight in enumerate(h):
            finer[k * step : k * step + len(phi)] += np.sqrt(2) * weight * phi
        phi = finer
    return phi


def _filter(vanishing: int) -> np.ndarray:
    """Return Daubechies' filter of 2p numbers, the minimum-phase root of her equation (Ten Lectures, section 6.1)."""
    p = vanishing
    halfband = np.array([math.comb(p - 1 + k, k) for k in range(p)][::-1], dtype=np.float64)
    roots = np.roots(halfband)  # in y = (2 − z − 1/z)/4
    inside = []
    for y in roots:
        z = np.roots([1, 4 * y - 2, 1])
        inside.append(z[np.argmin(abs(z))])
    h = np.real(np.poly(np.array([-1.0] * p + inside)))
    return h / h.sum() * np.sqrt(2)
