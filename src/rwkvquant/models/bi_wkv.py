"""Bi-WKV in torch, batched, in O(T) and differentiable: a scan from each side. kernels/bi_wkv.py has the formula and the reasons.

The tokens are cut into about sqrt(T) chunks. All chunks are scanned at once, then the sums are carried from chunk to chunk. So a scan is
about 2 sqrt(T) operations on large tensors: 56 and not 768 for 768 patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.kernels.bi_wkv import EPS

Sums = tuple[Tensor, Tensor, Tensor]  # o, a, b of one shape: the sums are e^o a and e^o b


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """w, u (C,), k, v (B, T, C) -> (B, T, C)."""
    o1, a1, b1 = _sums_before(w, k, v)
    o2, a2, b2 = (part.flip(1) for part in _sums_before(w, k.flip(1), v.flip(1)))
    p = u + k
    m = torch.maximum(torch.maximum(o1, o2), p)
    e1, e2, e3 = torch.exp(o1 - m), torch.exp(o2 - m), torch.exp(p - m)
    return (a1 * e1 + a2 * e2 + e3 * v) / (b1 * e1 + b2 * e2 + e3 + EPS)


def _sums_before(w: Tensor, k: Tensor, v: Tensor) -> Sums:
    """For each t the sums over all tokens before it, each (B, T, C); nothing is before the first, so its o is -inf."""
    tokens = k.shape[1]
    size = math.isqrt(tokens - 1) + 1
    missing = -tokens % size  # tokens that weigh nothing fill the last chunk
    keys = functional.pad(k, (0, 0, 0, missing), value=-torch.inf).unflatten(1, (-1, size)).unbind(2)  # each (B, chunks, C)
    values = functional.pad(v, (0, 0, 0, missing)).unflatten(1, (-1, size)).unbind(2)
    nothing = torch.zeros_like(values[0])
    within = [(torch.full_like(nothing, -torch.inf), nothing, nothing)]  # sums over the tokens of the same chunk
    for key, value in zip(keys, values, strict=True):
        o, a, b = within[-1]
        within.append(_join((o - w, a, b), (key, value, torch.ones_like(value))))
    carried = [tuple(part[:, 0] for part in within[0])]  # sums over all earlier chunks, at the first token of each chunk
    for chunk in zip(*(part.unbind(1) for part in within.pop()), strict=True):
        o, a, b = carried[-1]
        carried.append(_join((o - size * w, a, b), chunk))
    place = torch.arange(size, dtype=w.dtype, device=w.device)[:, None]
    o, a, b = (torch.stack(part, 1)[:, :, None] for part in zip(*carried[:-1], strict=True))  # (B, chunks, 1, C)
    own = tuple(torch.stack(part, 2) for part in zip(*within, strict=True))  # (B, chunks, size, C)
    o, a, b = (part.flatten(1, 2)[:, :tokens] for part in _join((o - place * w, a, b), (own[0], own[1], own[2])))
    return o, a, b


def _join(one: Sums, other: Sums) -> Sums:
    """The sum of both, with the larger exponent; -inf where both are empty."""
    o = torch.maximum(one[0], other[0])
    finite = torch.where(torch.isinf(o), 0, o)  # -inf - -inf would be no number
    e1, e2 = torch.exp(one[0] - finite), torch.exp(other[0] - finite)
    return o, one[1] * e1 + other[1] * e2, one[2] * e1 + other[2] * e2
