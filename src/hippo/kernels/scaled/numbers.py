"""What a weight s^a makes of the order n."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Numbers(NamedTuple):
    """Numbers of the weight (1 + a) s^a on [0, 1], all of them (N,) in float64.

    Attributes:
        d: n + 1 + a, the diagonal of A.
        s: √(2n + 1 + a); A below its diagonal is s sᵀ.
        middle: Of s p_n = beside_n p_{n−1} + middle_n p_n + beside_{n+1} p_{n+1}, the orthonormal polynomials.
        beside: Likewise; 0 for n = 0.
    """

    d: Tensor
    s: Tensor
    middle: Tensor
    beside: Tensor


@functools.lru_cache(maxsize=16)
def numbers(order: int, power: float) -> Numbers:
    """Return the numbers of N = order and a = power. p_n are Jacobi's P_n^(0, a)(2s − 1), normalised."""
    with torch.inference_mode(False):
        n = torch.arange(order, dtype=torch.float64, device="cpu")
        twice = 2 * n + power
        middle = torch.full_like(n, (1 + power) / (2 + power))
        middle[1:] = (1 + power**2 / (twice * (twice + 2))[1:]) / 2
        beside = torch.zeros_like(n)
        beside[1:] = (n * (n + power) / (twice * torch.sqrt(twice**2 - 1)))[1:]
        return Numbers(n + 1 + power, torch.sqrt(twice + 1), middle, beside)
