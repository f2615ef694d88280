"""Diagonal linear recurrences x_t = a_t ⊙ x_{t−1} + b_t, real or complex, whose factors may change with time.

One form serves all: `scan` in chunks. A loop over the steps takes as long where B·P is in the thousands, and seven
times as long for one sequence.
"""

from torch import Tensor

from hippo.kernels.diagonal import chunked


def scan(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """Return x after every step.

    Args:
        a: Factors (P,), or (B, L, P) where they change with time.
        b: (B, L, P), L ≥ 1, of the same dtype.
        state: x before the first step (B, P).

    Returns:
        (B, L, P).

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    if (
        b.dim() != 3
        or b.shape[1] == 0
        or a.shape not in (b.shape, b.shape[2:])
        or state.shape != (len(b), b.shape[2])
        or not a.dtype == b.dtype == state.dtype
    ):
        raise ValueError(
            f"a {tuple(a.shape)}, b {tuple(b.shape)} and state {tuple(state.shape)} must be (P,) or (B, L, P), "
            f"(B, L, P) and (B, P), of one dtype, not {a.dtype}, {b.dtype} and {state.dtype}"
        )
    return chunked.scan(a, b, state)
