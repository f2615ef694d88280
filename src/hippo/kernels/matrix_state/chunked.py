"""The matrix-state recurrences in chunks of Q steps: matrix products inside a chunk, a short loop from chunk to chunk.

Decays are sums of logarithms over the steps that they span, each at most 0: no cumulative product is divided by
another, which would overflow. What autograd keeps is of size (B, L, H, Q) and (B, L/Q, H, N, P).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_SHALLOW = 40.0  # e^40 times what queries and keys are is within float32


def decayed_scalar(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence with one decay for a head (Mamba-2's structured duality, arXiv 2405.21060, listing 1).

    The G groups of q and k serve R = H/G heads each; with one group the products take all heads at once.
    """
    B, L, H, P = v.shape
    G, N = q.shape[2:]
    R = H // G
    q, k, v, log_decay = (in_chunks(x, chunk) for x in (q, k, v, log_decay))  # (B, M, Q, ...)
    M, Q = v.shape[1:3]
    q, k = (x.transpose(2, 3).reshape(B * M * G, Q, N) for x in (q, k))
    # Decay from each step to each later one, and to the end of the chunk, (b, M, H, Q, Q); b is 1 or B.
    between = segment_sums(log_decay.transpose(2, 3)).exp()
    since = log_decay.cumsum(2).exp().unsqueeze(-1)  # (b, M, Q, H, 1), from what enters the chunk
    until = between[..., -1, :].mT.unsqueeze(-1)  # (b, M, Q, H, 1)

    scores = torch.bmm(q, k.mT).view(B, M, G, 1, Q, Q) * between.unflatten(2, (G, R))
    inside = scores.view(B * M * H, Q, Q) @ v.transpose(2, 3).reshape(B * M * H, Q, P)
    inside = inside.view(B, M, H, Q, P).transpose(2, 3)

    def by_group(x: Tensor) -> Tensor:
        return x.unflatten(3, (G, R)).transpose(2, 3).reshape(B * M * G, Q, R * P)

    added = torch.bmm(k.mT, by_group(v * until)).view(B, M, G, N, R, P)
    entering, state = carried(added, since[:, :, -1].unflatten(2, (G, 1, R)), state.view(B, G, R, N, P).transpose(2, 3))
    across = torch.bmm(q, entering.reshape(B * M * G, N, R * P)).view(B, M, G, Q, R, P)
    across = across.transpose(2, 3).reshape(B, M, Q, H, P)
    o = torch.addcmul(inside, across, since).reshape(B, M * Q, H, P)[:, :L]
    return o, state.transpose(2, 3).reshape(B, H, N, P)


def decayed_channels(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence with a decay for each channel of the keys (gated linear attention, arXiv 2312.06635)."""
    B, L, H, P = v.shape
    q, k, v, log_decay = (_by_head(x, _halving(chunk, L)) for x in (q, k, v, log_decay))
    (X, Q, N), M = q.shape, len(q) // (B * H)
    scores = _scores(log_decay, (False,), (q,), (k,)).view(X, Q, Q)
    since, until = log_decay.cumsum(1).exp(), suffix_sums(log_decay).exp()
    added = torch.bmm((k * until).mT, v).view(B, M, H, N, P)
    entering, state = carried(added, since[:, -1].view(B, M, H, N, 1), state)
    o = torch.baddbmm(torch.bmm(scores, v), q * since, entering.view(X, N, P))
    return _by_step(o, B, H, L), state


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, read: Tensor, write: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence whose every step also rewrites what it recalls (RWKV-7, arXiv 2503.14456; DeltaNet, 2406.06484).

    With u_t = S_{t−1}ᵀ read_t the steps of a chunk are a unit lower triangular system in the u_t, solved at once for
    the part that the chunk itself makes and for the part that is linear in the state S that enters.
    """
    B, L, H, P = v.shape
    q, k, v, log_decay, read, write = (_by_head(x, _halving(chunk, L)) for x in (q, k, v, log_decay, read, write))
    (X, Q, N), M = q.shape, len(q) // (B * H)
    scores = _scores(log_decay, (False, True), (q, read), (k, write))
    q_scores, read_scores = scores.unbind(1)
    # From what enters: up to each step, and up to the one before it, two views of one tensor.
    since = F.pad(log_decay.cumsum(1), (0, 0, 1, 0)).exp()
    before, since, until = since[:, :-1], since[:, 1:], suffix_sums(log_decay).exp()

    known = torch.cat([torch.bmm(read_scores[:, :, 0], v), read * before], -1)  # (X, Q, P + N)
    solved = torch.linalg.solve_triangular(-read_scores[:, :, 1], known, upper=False, unitriangular=True)
    own, linear = solved.split([P, N], -1)  # u = own + linear S
    k, write = k * until, write * until
    transition = torch.baddbmm(torch.diag_embed(since[:, -1]), write.mT, linear).view(B, M, H, N, N)
    added = torch.baddbmm(torch.bmm(k.mT, v), write.mT, own).view(B, M, H, N, P)
    entering = []
    for add, move in zip(added.unbind(1), transition.unbind(1), strict=True):
        entering.append(state)
        state = add + move @ state
    entering = torch.stack(entering, 1).view(X, N, P)
    recalled = torch.baddbmm(own, linear, entering)
    o = torch.bmm(q_scores.reshape(X, Q, 2 * Q), torch.cat([v, recalled], 1))
    return _by_step(torch.baddbmm(o, q * since, entering), B, H, L), state


def _scores(log_decay: Tensor, before: tuple[bool, ...], queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """Return what `_Scores` does. Where no channel decays by more than e^−_SHALLOW in a chunk, as RWKV-7's do not by
    themselves (e^−19 in 32 steps), one product makes them all: queries decay from the middle of the chunk and keys to
    it, so that some grow, though not beyond all numbers. RWKV-7 takes 0.72 of the time with it (B = 50, L = 784, H = 64
    in heads of 32, both passes, one thread), and 0.86 (H = 128 in heads of 64)."""
    sums = log_decay.cumsum(1)
    if not (torch.compiler.is_exporting() or sums[:, -1].min() < -_SHALLOW):
        X, Q, _ = log_decay.shape
        since = sums - sums[:, Q // 2 :][:, :1]
        until = (-since).exp()
        reach = [(since - log_decay if early else since).exp() for early in before]
        q = torch.cat([query * decay for query, decay in zip(queries, reach, strict=True)], 1)
        k = torch.cat([key * until for key in keys], 1)
        steps = torch.arange(Q, device=q.device)
        causal = torch.stack([steps[:, None] - int(early) >= steps for early in before]).unsqueeze(2).to(q)
        return torch.bmm(q, k.mT).view(X, len(queries), Q, len(keys), Q) * causal
    return _Scores.apply(log_decay, before, *queries, *keys)


class _Scores(torch.autograd.Function):
    """q_i · (e^{Σ_{j<l≤i} g_l} ∘ k_j) for j ≤ i; for queries that are read before their step's decay, Σ_{j<l<i}, j < i.

    A chunk is halved, and its halves again: at each level the later half's queries decay from the middle of the pair,
    the earlier half's keys decay to it, and one product makes all scores between the halves.

    Args (of `apply`): log_decay (X, Q, N), for each of T queries whether it is read before the decay, and T queries and
    U keys, all (X, Q, N). Q is a power of 2. Returns (X, T, Q, U, Q).
    """

    @staticmethod
    def forward(ctx: Any, log_decay: Tensor, before: tuple[bool, ...], *vectors: Tensor) -> Tensor:
        ctx.save_for_backward(log_decay, *vectors)
        ctx.before = before
        queries, keys = vectors[: len(before)], vectors[len(before) :]
        X, Q, _ = log_decay.shape
        scores = log_decay.new_zeros(X, len(queries), Q, len(keys), Q)
        for t, query in enumerate(queries):
            for u, key in enumerate(keys):
                if not before[t]:
                    scores[:, t, :, u].diagonal(dim1=1, dim2=2).copy_((query * key).sum(-1))
        for size, since, until in _levels(log_decay):
            q, k = _decayed(queries, keys, size, since, until, before)
            product = torch.bmm(q, k.mT).view(X, -1, len(queries), size, len(keys), size)
            _blocks(scores, size).copy_(product)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        (gradient,) = grad_outputs
        log_decay, *vectors = ctx.saved_tensors
        before = ctx.before
        queries, keys = vectors[: len(before)], vectors[len(before) :]
        X, _, N = log_decay.shape
        to_queries, to_keys = ([torch.zeros_like(v) for v in each] for each in (queries, keys))
        for t, query in enumerate(queries):
            for u, key in enumerate(keys):
                if not before[t]:
                    diagonal = gradient[:, t, :, u].diagonal(dim1=1, dim2=2).unsqueeze(-1)
                    to_queries[t].addcmul_(diagonal, key)
                    to_keys[u].addcmul_(diagonal, query)
        for size, since, until in _levels(log_decay):
            q, k = _decayed(queries, keys, size, since, until, before)
            block = _blocks(gradient, size).reshape(-1, len(queries) * size, len(keys) * size)
            to_q = torch.bmm(block, k).view(X, -1, len(queries), size, N)
            to_k = torch.bmm(block.mT.contiguous(), q).view(X, -1, len(keys), size, N)
            for t, early in enumerate(before):
                _halves(to_queries[t], size)[:, :, 1].addcmul_(to_q[:, :, t], _read(since, early))
            for u in range(len(keys)):
                _halves(to_keys[u], size)[:, :, 0].addcmul_(to_k[:, :, u], until)
        # log_decay l acts on the pairs j < l ≤ i: those of queries from l on, less those whose key is as late as that.
        pairs = torch.zeros_like(log_decay)
        for key, to_key in zip(keys, to_keys, strict=True):
            pairs.addcmul_(key, to_key, value=-1)
        for query, to_query, early in zip(queries, to_queries, before, strict=True):
            if early:
                pairs[:, :-1].addcmul_(query[:, 1:], to_query[:, 1:])
            else:
                pairs.addcmul_(query, to_query)
        return suffix_sums(pairs) + pairs, None, *to_queries, *to_keys


def _levels(log_decay: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For halves of 1, 2, 4, … steps: their size, the later one's decay since the middle of each pair and the earlier
    one's until it, (X, Q/2m, m, N)."""
    since, until, size = log_decay.clone(), torch.zeros_like(log_decay), 1
    while size < log_decay.shape[1]:
        early, late = _halves(since, size).unbind(2)
        yield size, late.exp(), _halves(until, size)[:, :, 0].exp()
        _halves(until, size)[:, :, 0].add_(late[:, :, -1:])
        late.add_(early[:, :, -1:])
        size *= 2


def _halves(x: Tensor, size: int) -> Tensor:
    """View (X, Q, N) as (X, Q/2m, 2, m, N)."""
    return x.unflatten(1, (-1, 2, size))


def _blocks(scores: Tensor, size: int) -> Tensor:
    """View scores (X, T, Q, U, Q) between the later half of each pair and the earlier, (X, Q/2m, T, m, U, m)."""
    pairs = scores.unflatten(4, (-1, 2, size))[..., 0, :].unflatten(2, (-1, 2, size))[:, :, :, 1]
    return pairs.diagonal(dim1=2, dim2=5).permute(0, 5, 1, 2, 3, 4)


def _read(since: Tensor, before: bool) -> Tensor:
    """What a query sees decayed since the middle: all steps up to its own, or without its own."""
    return torch.cat([torch.ones_like(since[:, :, :1]), since[:, :, :-1]], 2) if before else since


def _decayed(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    size: int,
    since: Tensor,
    until: Tensor,
    before: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The later halves' queries and the earlier halves' keys, decayed, (X Q/2m, T m, N) and (X Q/2m, U m, N)."""
    late = [_halves(q, size)[:, :, 1] * _read(since, early) for q, early in zip(queries, before, strict=True)]
    early = [_halves(k, size)[:, :, 0] * until for k in keys]
    q, k = (torch.cat(parts, 2).flatten(0, 1) for parts in (late, early))
    return q, k


def _halving(chunk: int, length: int) -> int:
    """The chunk, or the next power of 2 where that is enough for the length."""
    return min(chunk, 1 << (length - 1).bit_length())


def _by_head(x: Tensor, chunk: int) -> Tensor:
    """Cut (B, L, H, N) into (B M H, Q, N) with Q = chunk, filled up with zeros."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk))
    return x.unflatten(1, (-1, chunk)).transpose(2, 3).reshape(-1, chunk, x.shape[-1])


def _by_step(x: Tensor, batch: int, heads: int, length: int) -> Tensor:
    """The way back, to (B, L, H, P)."""
    return x.view(batch, -1, heads, *x.shape[1:]).transpose(2, 3).flatten(1, 2)[:, :length]


def suffix_sums(x: Tensor) -> Tensor:
    """Σ_{l>j} x_l at j, (X, Q, N)."""
    later = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
    return later.flip(1).cumsum(1).flip(1)


def in_chunks(x: Tensor, chunk: int) -> Tensor:
    """Cut (B, L, ...) into (B, M, Q, ...) with Q ≤ chunk, as even as can be, filled up with zeros."""
    count = -(-x.shape[1] // chunk)
    size = -(-x.shape[1] // count)
    missing = count * size - x.shape[1]
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1)
    return x.unflatten(1, (count, size))


def segment_sums(x: Tensor) -> Tensor:
    """Σ_{j<l≤i} x_l at (i, j) for j ≤ i, −∞ for j > i: (..., Q) to (..., Q, Q), each summed by itself."""
    size = x.shape[-1]
    lower = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    terms = x.unsqueeze(-1).expand(*x.shape, size).masked_fill(~lower.tril(-1), 0)
    return terms.cumsum(-2).masked_fill(~lower, -torch.inf)


def carried(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What enters each of M chunks, and what leaves the last, from what each adds and how it decays, (B, M, ...)."""
    entering = []
    for add, factor in zip(added.unbind(1), decay.unbind(1), strict=True):
        entering.append(state)
        state = torch.addcmul(add, factor, state)
    return torch.stack(entering, 1), state
