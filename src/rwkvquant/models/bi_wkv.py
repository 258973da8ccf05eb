"""Bi-WKV in torch, batched, in O(T) and differentiable: two scans, as in kernels/bi_wkv.py, which has the formula and the reasons."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.kernels.bi_wkv import EPS

Sums = tuple[Tensor, Tensor, Tensor]  # o (B, C), a (B, C), b (B, C): the sums are e^o a and e^o b


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """w, u (C,), k, v (B, T, C) -> (B, T, C)."""
    keys, values = k.unbind(1), v.unbind(1)
    before = _sums_before(w, keys, values)
    after = _sums_before(w, keys[::-1], values[::-1])[::-1]
    o1, a1, b1 = (torch.stack(part, 1) for part in zip(*before, strict=True))
    o2, a2, b2 = (torch.stack(part, 1) for part in zip(*after, strict=True))
    p = u + k
    m = torch.maximum(torch.maximum(o1, o2), p)
    e1, e2, e3 = torch.exp(o1 - m), torch.exp(o2 - m), torch.exp(p - m)
    return (a1 * e1 + a2 * e2 + e3 * v) / (b1 * e1 + b2 * e2 + e3 + EPS)


def _sums_before(w: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> list[Sums]:
    """For each t the sums over all tokens before it; nothing is before the first."""
    nothing = torch.zeros_like(values[0])
    sums = [(torch.full_like(nothing, -torch.inf), nothing, nothing)]
    for k, v in zip(keys[:-1], values[:-1], strict=True):
        o, a, b = sums[-1]
        m = torch.maximum(o - w, k)
        e1, e2 = torch.exp(o - w - m), torch.exp(k - m)
        sums.append((m, a * e1 + e2 * v, b * e1 + e2))
    return sums
