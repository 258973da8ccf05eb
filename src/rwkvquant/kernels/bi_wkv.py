"""Bi-WKV, the attention of Vision-RWKV (arXiv:2403.02308): every token reads all others, with weights that fall with their distance.

    y_t = sum_i e^{p_ti - m_t} v_i  /  (sum_i e^{p_ti - m_t} + 1e-6)        m_t = max over i of p_ti
    p_ti = k_i - (|t - i| - 1) w   for i != t,        p_tt = u + k_t

    w, u  (C,)         the decay and the bonus of a token for itself: spatial_decay / T and spatial_first / T; both may be negative
    k, v  (B, T, C)    -> y (B, T, C)        T  patches of an image    C  channels, independent of each other

`bi_wkv_dense` is this formula. `bi_wkv` computes it in O(T), by a scan from each side: the sum over i < t is a running one, kept as
e^o a and e^o b, so that no exponential overflows. `bi_wkv_cuda` is what the kernels that released models were trained with compute.
"""

from __future__ import annotations

import numpy as np

from rwkvquant.kernels.functions import Array

EPS = 1e-6
CHUNKS = 32  # of the CUDA kernels


def bi_wkv_dense(w: Array, u: Array, k: Array, v: Array) -> Array:
    """The definition; (B, T, T, C) values in memory."""
    tokens = k.shape[1]
    t = np.arange(tokens)
    distance = np.abs(t[:, None] - t)[..., None]  # (T, T, 1)
    p = np.where(distance == 0, u, -(distance - 1) * w) + k[:, None]  # (B, T, T, C)
    p = np.exp(p - p.max(2, keepdims=True)).astype(k.dtype)
    return (p * v[:, None]).sum(2) / (p.sum(2) + k.dtype.type(EPS))


def bi_wkv(w: Array, u: Array, k: Array, v: Array) -> Array:
    """The same in O(T)."""
    tokens = k.shape[1]
    after = _sums_before(w, k[:, ::-1], v[:, ::-1])  # of the reversed sequence: of the tokens after t
    y = np.empty_like(v)
    for t, (o1, a1, b1) in enumerate(_sums_before(w, k, v)):
        o2, a2, b2 = after[tokens - 1 - t]
        p = u + k[:, t]
        m = np.maximum(np.maximum(o1, o2), p)
        e1, e2, e3 = np.exp(o1 - m), np.exp(o2 - m), np.exp(p - m)
        y[:, t] = (a1 * e1 + a2 * e2 + e3 * v[:, t]) / (b1 * e1 + b2 * e2 + e3 + k.dtype.type(EPS))
    return y


def _sums_before(w: Array, k: Array, v: Array) -> list[tuple[Array, Array, Array]]:
    """For each t: o, a, b, each (B, C), with sum over i < t of e^{p_ti} v_i = e^o a and of e^{p_ti} = e^o b; o is the largest p_ti."""
    o = np.full_like(k[:, 0], -np.inf)
    a, b = np.zeros_like(o), np.zeros_like(o)
    sums = []
    for t in range(k.shape[1]):
        sums.append((o, a, b))
        o, a, b = _add(o - w, a, b, k[:, t], 1, v[:, t])
    return sums


def _add(o: Array, a: Array, b: Array, p: Array, sign: int, v: Array) -> tuple[Array, Array, Array]:
    """e^o (a, b) + sign e^p (v, 1), again as o, a, b with the larger of both exponents."""
    m = np.maximum(o, p)
    e1, e2 = np.exp(o - m), sign * np.exp(p - m)
    return m, a * e1 + e2 * v, b * e1 + e2


def bi_wkv_cuda(w: Array, u: Array, k: Array, v: Array) -> Array:
    """What the CUDA kernels of OpenGVLab/Vision-RWKV compute, in their order. On random data it is within about 3e-3 of the formula.

    They cut the tokens into 32 chunks. The sums that a chunk begins with hold e^{k_i - |t - i| w}, but inside the chunk they are updated
    as if they held e^{k_i - (|t - i| - 1) w}. So this is no formula of distances, and it changes with T.
    """
    tokens = k.shape[1]
    size = -(-tokens // CHUNKS)
    starts = range(0, tokens, size)
    y = np.empty_like(v)
    nothing = np.full_like(k[:, 0], -np.inf), np.zeros_like(k[:, 0]), np.zeros_like(k[:, 0])
    own_before, own_after = [], []  # of each chunk: its tokens as later chunks see them, and as it and earlier chunks do
    for start in starts:
        stop = min(start + size, tokens)
        before = after = nothing
        for i in range(start, stop):
            after = _add(*after, k[:, i] - w * (i - start), 1, v[:, i])
            before = _add(*before, k[:, i] - w * (stop - i), 1, v[:, i])
        own_before.append(before)
        own_after.append(after)
    for chunk, start in enumerate(starts):
        before = after = nothing
        for earlier in range(chunk):
            o, a, b = own_before[earlier]
            before = _join(before, (o - w * (chunk - earlier - 1) * size, a, b))
        for later in range(chunk, len(starts)):
            o, a, b = own_after[later]
            after = _join(after, (o - w * (later - chunk) * size, a, b))
        o1, c, d = after
        c, d = c - np.exp(k[:, start] - o1) * v[:, start], d - np.exp(k[:, start] - o1)
        o2, a, b = before
        for t in range(start, min(start + size, tokens)):
            p = u + k[:, t]
            m = np.maximum(np.maximum(o1, o2), p)
            e1, e2, e3 = np.exp(o1 - m), np.exp(o2 - m), np.exp(p - m)
            y[:, t] = (c * e1 + a * e2 + e3 * v[:, t]) / (d * e1 + b * e2 + e3 + k.dtype.type(EPS))
            o2, a, b = _add(o2 - w, a, b, k[:, t], 1, v[:, t])
            following = (t + 1) % tokens
            o1, c, d = _add(o1 + w, c, d, k[:, following] + w, -1, v[:, following])
    return y


def _join(one: tuple[Array, Array, Array], other: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    m = np.maximum(one[0], other[0])
    m = np.where(np.isneginf(m), 0, m)  # both are empty
    e1, e2 = np.exp(one[0] - m), np.exp(other[0] - m)
    return np.where(e1 + e2 > 0, m, -np.inf), one[1] * e1 + other[1] * e2, one[2] * e1 + other[2] * e2
