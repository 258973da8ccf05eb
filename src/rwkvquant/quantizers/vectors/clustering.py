"""Weighted k-means of vectors: splitting (Linde, Buzo, Gray 1980), then Lloyd's iteration. It draws no random numbers.

    x  (n, v)  points      p  (n,)  weights, none negative      c  (k, v)  centroids

    minimise  sum_i  p_i |x_i - c_code(i)|^2

It begins with the mean. Every centroid is replaced by two, a standard deviation of its cluster to either side in the component that costs
most, and the iteration runs again, until there are k. An empty cluster goes to the edge of the one that costs most.

Gives up: the optimum; and many points are thinned to SAMPLE for each centroid.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS_BETWEEN = 4  # of Lloyd's iteration after a split
ROUNDS_LAST = 20
SAMPLE = 256
CHUNK = 1 << 21  # costs computed at a time


def vector_kmeans(x: Tensor, p: Tensor, k: int) -> Tensor:
    """x (n, v), p (n,) -> centroids (k, v), k a power of two."""
    assert k & (k - 1) == 0, k
    p = p if bool((p > 0).any()) else torch.ones_like(p)
    x, p = _sample(x, p, SAMPLE * k)
    centroids = (p @ x / p.sum())[None]
    while len(centroids) < k:
        centroids = _split(x, p, centroids)
        for _ in range(ROUNDS_LAST if len(centroids) == k else ROUNDS_BETWEEN):
            centroids = _round(x, p, centroids)
    return centroids


def nearest_vectors(x: Tensor, centroids: Tensor) -> Tensor:
    """x (n, v), centroids (k, v) -> codes (n,) int64; a tie goes to the first."""
    half = 0.5 * centroids.square().sum(1)
    step = max(1, CHUNK // len(centroids))
    return torch.cat([(half - part @ centroids.T).argmin(1) for part in x.split(step)])


def _sample(x: Tensor, p: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` points, at even steps of the running total of their weights, so that all stand for the same weight."""
    if len(x) <= most:
        return x, p
    total = p.cumsum(0)
    picked = torch.searchsorted(total, total[-1] * (torch.arange(most, device=x.device, dtype=x.dtype) + 0.5) / most)
    return x[picked.clamp(max=len(x) - 1)], torch.ones(most, dtype=x.dtype, device=x.device)


def _statistics(x: Tensor, p: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (k,), means (k, v) and costs by component (k, v) of the clusters. An empty cluster's mean is its centroid."""
    codes = nearest_vectors(x, centroids)
    weight = torch.zeros_like(centroids[:, 0]).index_add_(0, codes, p)
    away = x - centroids[codes]
    shift = torch.zeros_like(centroids).index_add_(0, codes, p[:, None] * away) / weight.clamp(min=torch.finfo(x.dtype).tiny)[:, None]
    cost = torch.zeros_like(centroids).index_add_(0, codes, p[:, None] * away.square()) - weight[:, None] * shift.square()
    return weight, centroids + shift, cost.clamp(min=0)


def _round(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor:
    """One round of Lloyd's iteration. The i-th empty cluster goes to the edge of the i-th most costly one."""
    weight, mean, cost = _statistics(x, p, centroids)
    empty = (weight == 0).nonzero()[:, 0]
    if len(empty):
        costly = cost.sum(1).argsort(descending=True, stable=True)[: len(empty)]
        mean[empty] = (mean + _spread(weight, cost))[costly]
    return mean


def _split(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor:
    weight, mean, cost = _statistics(x, p, centroids)
    away = _spread(weight, cost)
    return torch.cat([mean - away, mean + away])


def _spread(weight: Tensor, cost: Tensor) -> Tensor:
    """The standard deviation of each cluster in the component that costs most, 0 in the others, (k, v)."""
    widest = torch.nn.functional.one_hot(cost.argmax(1), cost.shape[1]).to(cost)
    return widest * torch.where(weight[:, None] > 0, cost / weight[:, None], 0.0).sqrt()
