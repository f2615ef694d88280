"""Mamba's selective scan: a diagonal real recurrence whose step, input and output change with every sample.

`cpu` is compiled, `recomputed` the same in tensor operations, for every device; neither keeps a tensor (B, L, D, N).
`naive` is the recurrence as written: the reference, and what serves where there is one step only.
"""

from torch import Tensor

from hippo.kernels.common import native
from hippo.kernels.selective import naive, recomputed


def selective_scan(
    u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the outputs of h_t = e^{Δ_t A} h_{t−1} + Δ_t u_t B_tᵀ, y_t = h_t C_t, and the last h.

    Mamba's recurrence (arXiv 2312.00752, equation 2): the input enters by Euler's rule, Δ B, not by zero-order hold.

    Args:
        u: Input (B, L, D).
        step: Δ ≥ 0, (B, L, D).
        A: Decays per unit of time, below 0, (D, N).
        B: Input vectors (B, L, N).
        C: Output vectors (B, L, N).
        state: h before the first sample (B, D, N); zeros where None.

    Returns:
        Outputs (B, L, D), and the state (B, D, N).

    Raises:
        ValueError: If shapes do not go together.
    """
    (batch, length, width), states = u.shape, A.shape[-1]
    for name, value, shape in (
        ("step", step, u.shape),
        ("A", A, (width, states)),
        ("B", B, (batch, length, states)),
        ("C", C, (batch, length, states)),
        ("state", state, (batch, width, states)),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must be {tuple(shape)} to match u {tuple(u.shape)}, not {tuple(value.shape)}")
    state = A.new_zeros(batch, width, states) if state is None else state
    u, step, B, C, state = (x.to(A.dtype) for x in (u, step, B, C, state))  # under autocast they may be narrower
    if length == 1:
        return naive.loop(u, step, A, B, C, state)
    if native.serves(u):
        from hippo.kernels.selective import cpu  # numba takes a second to load

        return cpu.scan(u, step, A, B, C, state)
    return recomputed.SelectiveScan.apply(u, step, A, B, C, state)
