"""What a weight s^a makes of the order n."""

import functools
from typing import NamedTuple

import numpy as np


class Numbers(NamedTuple):
    """Numbers of the weight (1 + a) s^a on [0, 1], all of them (N,) in float64; arrays, for tensors made under
    `torch.export` would have no values to keep.

    Attributes:
        d: n + 1 + a, the diagonal of A.
        s: √(2n + 1 + a); A below its diagonal is s sᵀ.
        middle: Of s p_n = beside_n p_{n−1} + middle_n p_n + beside_{n+1} p_{n+1}, the orthonormal polynomials.
        beside: Likewise; 0 for n = 0.
    """

    d: np.ndarray
    s: np.ndarray
    middle: np.ndarray
    beside: np.ndarray


@functools.lru_cache(maxsize=16)
def numbers(order: int, power: float) -> Numbers:
    """Return the numbers of N = order and a = power. p_n are Jacobi's P_n^(0, a)(2s − 1), normalised."""
    n = np.arange(order, dtype=np.float64)
    twice = 2 * n + power
    middle = np.full_like(n, (1 + power) / (2 + power))
    middle[1:] = (1 + power**2 / (twice * (twice + 2))[1:]) / 2
    beside = np.zeros_like(n)
    beside[1:] = (n * (n + power))[1:] / (twice * np.sqrt(twice**2 - 1, where=n > 0, out=np.ones_like(n)))[1:]
    return Numbers(n + 1 + power, np.sqrt(twice + 1), middle, beside)
