"""Recurrences whose state is a matrix for each head: it decays, takes up k vᵀ, and is read by q.

The chunked products of `chunked` serve on every device. `naive` is the recurrence as written: the reference, and what
serves where there is one step only.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hippo.kernels.matrix_state import chunked, naive

SCALAR_CHUNK = 56  # steps in one product; at 32 and 112 both passes take a quarter longer (L = 784, N = P = 64)
CHANNEL_CHUNK = 32  # a power of 2; at 16 they take up to twice, and at 64 a tenth longer


def decayed(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the outputs of S_t = e^{g_t} S_{t−1} + k_t v_tᵀ, o_t = S_tᵀ q_t, and the last S.

    Mamba-2 (arXiv 2405.21060), RetNet (2307.08621) and, with a decay for each channel of the keys, gated linear
    attention (2312.06635).

    Args:
        q: Queries (B, L, G, N): each of the G groups serves H/G heads; with a decay for each channel, G = H.
        k: Keys, shaped as q.
        v: Values (B, L, H, P).
        log_decay: g ≤ 0 for each head, (B, L, H) or (1, L, H), or for each channel of its keys, (B, L, H, N).
        state: S_0 (B, H, N, P); zeros where None.
        chunk: Steps that one product takes, a power of 2 where each channel has its decay; does not change the result.

    Returns:
        Outputs (B, L, H, P), and the state (B, H, N, P).

    Raises:
        ValueError: If shapes do not go together.
    """
    (B, L, H), (G, N) = v.shape[:3], q.shape[2:]
    by_channel = log_decay.dim() == 4
    decays = [(B, L, H, N)] if by_channel else [(B, L, H), (1, L, H)]
    if q.shape[:2] != (B, L) or k.shape != q.shape or H % G or (by_channel and G != H):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} do not go with v {tuple(v.shape)}")
    if tuple(log_decay.shape) not in decays:
        raise ValueError(f"log_decay must be {' or '.join(map(str, decays))}, not {tuple(log_decay.shape)}")
    state = _state(state, q, v)
    if L == 1:
        q, k = (x.unsqueeze(3).expand(B, L, G, H // G, N).flatten(2, 3) for x in (q, k))
        return naive.decayed_loop(q, k, v, log_decay, state)
    if by_channel:
        return chunked.decayed_channels(q, k, v, log_decay, state, _power_of_2(chunk))
    return chunked.decayed_scalar(q, k, v, log_decay, state, chunk or SCALAR_CHUNK)


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    read: Tensor,
    write: Tensor,
    state: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the outputs of S_t = diag(e^{g_t}) S_{t−1} + write_t (S_{t−1}ᵀ read_t)ᵀ + k_t v_tᵀ, o_t = S_tᵀ q_t.

    RWKV-7 (arXiv 2503.14456) with read = κ̂ and write = −κ̂ ∘ a; DeltaNet (2406.06484) with read = k̂, write = −β k̂,
    the key β k̂ and no decay.

    Args:
        q: Queries (B, L, H, N).
        k: Keys (B, L, H, N).
        v: Values (B, L, H, P).
        log_decay: g ≤ 0, (B, L, H, N).
        read: What the state is asked before it decays, (B, L, H, N).
        write: Where the answer is added, (B, L, H, N).
        state: S_0 (B, H, N, P); zeros where None.
        chunk: Steps that one product takes, a power of 2; does not change the result.

    Returns:
        Outputs (B, L, H, P), and the state (B, H, N, P).

    Raises:
        ValueError: If shapes do not go together.
    """
    if q.shape[:3] != v.shape[:3]:
        raise ValueError(f"q {tuple(q.shape)} does not go with v {tuple(v.shape)}")
    for name, value in {"k": k, "log_decay": log_decay, "read": read, "write": write}.items():
        if value.shape != q.shape:
            raise ValueError(f"{name} must be shaped as q, {tuple(q.shape)}, not {tuple(value.shape)}")
    state = _state(state, q, v)
    if v.shape[1] == 1:
        return naive.delta_loop(q, k, v, log_decay, read, write, state)
    inputs = (q, k, v, log_decay, read, write, state, _power_of_2(chunk))
    if not torch.is_grad_enabled():
        return chunked.delta_rule(*inputs)
    # Made again on the way back, which takes a fifth more time and keeps RWKV-7 at (B=50, L=784, H=128) below 2 GB.
    return checkpoint(chunked.delta_rule, *inputs, use_reentrant=False, preserve_rng_state=False)


def _state(state: Tensor | None, q: Tensor, v: Tensor) -> Tensor:
    shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3])
    if state is None:
        return v.new_zeros(shape)
    if state.shape != shape:
        raise ValueError(f"state must be {shape}, not {tuple(state.shape)}")
    return state


def _power_of_2(chunk: int | None) -> int:
    chunk = chunk or CHANNEL_CHUNK
    if chunk & (chunk - 1):
        raise ValueError(f"chunk must be a power of 2, not {chunk}")
    return chunk
