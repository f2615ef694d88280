"""Recurrent cells over a whole sequence: what the input brings in, the hidden states after every step out. h_0 = 0.

`naive` has each as a loop in tensor operations; `cpu` has the two that much is trained with, the GRU and the LMU, as
compiled loops. Shapes: L steps, B samples, D features, Z numbers that the input brings to a step.
"""

from torch import Tensor

from hippo.kernels.cells import naive
from hippo.kernels.cells.naive import fru, gru_step, kept, lstm, mgu, modrelu
from hippo.kernels.common import native
from hippo.kernels.common.native import serves

__all__ = ["fru", "gru", "gru_step", "kept", "lmu", "lstm", "mgu", "modrelu", "serves"]


@native.opaque
def gru(
    from_x: Tensor, weight: Tensor, bias: Tensor, decay: Tensor | None = None, gaps: Tensor | None = None
) -> Tensor:
    """Return the states of the gated recurrent unit of `torch.nn.GRU` (arXiv 1406.1078):

        [r_t, u_t] = σ(from_x_t + W h_{t-1} + b),  n_t = tanh(from_x_t + r_t (W h_{t-1} + b)),
        h_t = n_t + u_t (h_{t-1} − n_t)

    Args:
        from_x: (L, B, 3D), for r, u and n.
        weight: W (3D, D).
        bias: b (3D,).
        decay: What h_{t-1} is multiplied by before each step, (L, B, D), as in GRU-D (arXiv 1606.01865), or None.
        gaps: Time that each step stands for, (L, B, 1): then u_t to that power takes the place of u_t. 1 where None.

    Returns:
        (L, B, D), not to be changed in place.
    """
    inputs = from_x, weight, bias, decay
    if gaps is None and serves(*inputs):
        from hippo.kernels.cells import cpu  # numba, which takes half a second to load

        return cpu.gru(*inputs)
    return naive.gru(*inputs, gaps)


@native.opaque
def lmu(
    from_x: Tensor,
    written: Tensor,
    kernel_h: Tensor | None,
    kernel_m: Tensor,
    A: Tensor,
    B: Tensor,
    write_h: Tensor,
    write_m: Tensor | None,
) -> Tensor:
    """Return the states of a Legendre memory unit (Voelker, Kajić and Eliasmith, NeurIPS 2019):

        u_t = written_t + e_h · h_{t-1} + e_m · m_{t-1},  m_t = Ā m_{t-1} + B̄ u_t,
        z_t = from_x_t + W_h h_{t-1} + W_m m_t,  h_t = tanh(z_t)

    With a gate, z_t = [g, c] and h_t = h_{t-1} + σ(g) (tanh(c) − h_{t-1}). With it, and without e_m and W_h, it is the
    gated network of arXiv 2008.07669 with a memory whose step is the same at all times.

    Args:
        from_x: (L, B, Z), Z being D, or 2D with a gate.
        written: (L, B).
        kernel_h: W_h (Z, D), or None where it is 0.
        kernel_m: W_m (Z, N).
        A: Ā (N, N).
        B: B̄ (N,).
        write_h: e_h (D,).
        write_m: e_m (N,), or None where it is 0.

    Returns:
        (L, B, D), not to be changed in place.
    """
    inputs = from_x, written, kernel_h, kernel_m, A, B, write_h, write_m
    if serves(*inputs) and not A.requires_grad and not B.requires_grad:  # a window that is learnt
        from hippo.kernels.cells import cpu

        return cpu.lmu(*inputs)
    return naive.lmu(*inputs)
