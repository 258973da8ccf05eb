"""The nearest of many directions, for many vectors: cosines, or cosines in the metric of eight columns that later columns make up for.

    x  (8,)  a vector      v  a direction, of any length      c  levels > 0      minimise |x - c v|^2 over v and c

For a given v the best length is (v . x) / |v|^2 and leaves |x|^2 - (v . x)^2 / |v|^2. So the best v has the largest (v . x) / |v|: the
cosine, as the paper assigns. Then c is the level that is nearest to (v . x) / |v|^2. This is the best pair, but for levels far away.
The paper seems to take the level that is nearest to |x|; with the directions of 14 bits that is 2 % more error.

Cosines are products of x with the normalised codebook (2^a, 8), a few vectors at a time, so that they stay in the second-level cache.
Finding the place of a maximum is slower than the product. So maxima of groups of directions are found first, without places.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rwkvquant.kernels.directions import LENGTH, directions

GROUP = 128  # directions
SOME = 1 << 19  # cosines at a time, on the CPU
TRIED = 1 << 12


@cache
def codebook(kind: str, bits: int) -> Tensor:
    """(2**bits, 8) float32 unit vectors, of the whole numbers that are stored."""
    E = torch.tensor(directions(kind, bits)).float()
    return E / E.norm(dim=1, keepdim=True)


def nearest(x: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """x (count, 8), V (2**bits, 8) -> numbers of the nearest directions (count,) int64, and v . x / |v|^2 for them (count,)."""
    length = V.norm(dim=1).clamp(min=torch.finfo(V.dtype).tiny)
    normed = V / length[:, None]
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    some = max(16, (SOME if x.device.type == "cpu" else 64 * SOME) // len(V))
    for start in range(0, len(x), some):
        part = x[start : start + some]
        cosines = (normed @ part.T).view(-1, GROUP, len(part))
        group = cosines.amax(1).argmax(0)
        inside = cosines[group, :, torch.arange(len(part), device=x.device)].argmax(1)
        codes[start : start + some] = GROUP * group + inside
    return codes, (normed[codes] * x).sum(1) / length[codes]


def level_of(length: Tensor, levels: Tensor) -> Tensor:
    """The numbers of the nearest levels, which grow; of any shape."""
    return torch.bucketize(length, (levels[1:] + levels[:-1]) / 2)


@cache
def typical_cosine(kind: str, bits: int) -> float:
    """The mean cosine of normal vectors with their direction: how much shorter a projection is than its vector."""
    x = torch.randn(TRIED, LENGTH, generator=torch.Generator().manual_seed(0))
    _, along = nearest(x, codebook(kind, bits))
    return float(along.sum() / x.norm(dim=1).sum())
