"""Dynamics of measures in the form that layers diagonalise: a normal matrix less one of low rank."""

from typing import Any, Literal, NamedTuple

import scipy.linalg
import torch
from torch import Tensor

from hippo.constants import constant
from hippo.measures import FouT, LegS, LegT, Measure


class Spectrum(NamedTuple):
    """A = V Λ V* − P Pᵀ with a unitary V, one of each pair of conjugates; M = N/2. In double precision.

    Attributes:
        eigenvalues: Λ (M,), of which imaginary parts are at least 0.
        vectors: V (N, M).
        low_rank: V* P (r, M).
        input: V* B (M,).
    """

    eigenvalues: Tensor
    vectors: Tensor
    low_rank: Tensor
    input: Tensor


Named = Literal["legs", "legt", "fout"]
_MEASURES = {"legs": LegS(), "legt": LegT(1.0), "fout": FouT(1.0)}


def spectrum(measure: Named | Measure, order: int) -> Spectrum:
    """Return a measure's dynamics as a normal matrix of shifted skew-symmetric form less one of low rank.

    The symmetric part of A is −c I − P Pᵀ, of rank 1 for LegS and FouT and 2 for LegT (arXiv 2111.00396, Theorem 1).
    What remains is skew-symmetric, and its eigenvectors are orthonormal; those of A itself are useless from N = 16 on.

    Args:
        measure: "legs", "legt" or "fout" with a window of 1, or a measure.
        order: N, even.

    Raises:
        ValueError: If the order is odd, the name unknown, or the low rank is above N/2: there is no such structure.
    """
    if order < 2 or order % 2:
        raise ValueError(f"the number of states must be even and at least 2, not {order}: they come in conjugate pairs")
    if isinstance(measure, str):
        if measure not in _MEASURES:
            raise ValueError(f"unknown measure {measure!r}; choose from {', '.join(_MEASURES)}, or give an object")
        measure = _MEASURES[measure]
    return _decompose(measure, order)


@constant(maxsize=16)
def _decompose(measure: Measure, order: int) -> Spectrum:
    A, B = measure.dynamics(order)
    values, vectors = torch.linalg.eigh((A + A.mT) / 2)
    shift = values[-1]  # −c, the eigenvalue of all directions but a few
    below = shift - values
    few = below > 1e-9 * below[0].clamp(min=1)
    if few.sum() > max(order // 2, 1):
        raise ValueError(f"{measure} is not a normal matrix less one of low rank; choose LegS, LegT or FouT")
    P = (vectors[:, few] * below[few].sqrt()).mT
    skew = (A - A.mT) / 2
    # A real Schur form keeps conjugates together also where eigenvalues coincide, as FouT's zeros do.
    form: Any = scipy.linalg.schur(skew.numpy(), output="real")
    blocks, basis = (torch.from_numpy(part.copy()) for part in form)
    frequencies, pairs, alone, k = [], [], [], 0
    while k < order:
        if k + 1 < order and (frequency := blocks[k, k + 1]).abs() > 1e-10 * skew.abs().max():
            frequencies.append(frequency.abs())
            pairs.append(torch.complex(basis[:, k], torch.sign(frequency) * basis[:, k + 1]))
            k += 2
        else:
            alone.append(basis[:, k])
            k += 1
    for one, other in zip(alone[::2], alone[1::2], strict=True):
        frequencies.append(torch.zeros((), dtype=torch.float64))
        pairs.append(torch.complex(one, other))
    imaginary, sorting = torch.stack(frequencies).sort()
    V = torch.stack(pairs, dim=1)[:, sorting] / 2**0.5
    return Spectrum(torch.complex(shift.expand_as(imaginary), imaginary), V, P.to(V) @ V.conj(), B.to(V) @ V.conj())
