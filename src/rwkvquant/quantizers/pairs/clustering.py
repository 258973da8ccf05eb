"""Two-dimensional weighted k-means for many groups at once: splitting (Linde, Buzo, Gray 1980), then Lloyd's iteration.

    x  (groups, n, 2)  points      p  (groups, n, 2)  a weight for each coordinate      c  (groups, k, 2)  centroids

    minimise   sum_i  p_i0 (x_i0 - c_code(i),0)^2  +  p_i1 (x_i1 - c_code(i),1)^2

In two dimensions dynamic programming does not find the best clusters. Splitting needs no random start. It begins with one centroid,
the mean. Every centroid is replaced by two, one standard deviation of its cluster to either side, along the coordinate in which the
cluster costs most. Then the iteration runs again, and so on until there are k. An empty cluster is moved into the one that costs most.

The weights of a point's two coordinates differ, so the cost of a centroid for a point is a product of four numbers of the point
with four of the centroid:   -2 p x c + p c^2   for each coordinate; p x^2 is the same for all centroids.

Gives up: the optimum. With 64 centroids for 16384 Gaussian points its cost is 2 to 3 % above the best of six random starts that
ran until they converged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.kernels import workshop

ROUNDS_BETWEEN = 4  # of Lloyd's iteration after a split
ROUNDS_LAST = 16
SAMPLE = 256  # points for each centroid of a table; with half as many, up to 5 % more loss
CHUNK = 1 << 21  # costs computed at a time


def pair_kmeans(x: Tensor, weights: Tensor, k: int) -> Tensor:
    """x, weights (groups, n, 2) -> centroids (groups, k, 2), k a power of two. Points of weight 0 do not count."""
    assert k & (k - 1) == 0, k
    p = torch.where(weights.sum(1, keepdim=True) > 0, weights, 1.0)
    x, p = _sample(x.contiguous(), p, SAMPLE * k)
    centroids = ((p * x).sum(1) / p.sum(1))[:, None]
    while centroids.shape[1] < k:
        centroids = _split(x, p, centroids)
        for _ in range(ROUNDS_LAST if centroids.shape[1] == k else ROUNDS_BETWEEN):
            centroids = _round(x, p, centroids)
    return centroids


def nearest_pairs(x: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """x, weights (groups, n, 2), centroids (groups, k, 2) -> codes (groups, n) int64; a tie goes to the first."""
    points = torch.cat([weights * x, weights], -1)  # (groups, n, 4)
    features = torch.cat([-2 * centroids, centroids.square()], -1).transpose(1, 2)  # (groups, 4, k)
    groups, n, k = *x.shape[:2], centroids.shape[1]
    codes = torch.empty(groups, n, dtype=torch.int64, device=x.device)
    some = max(1, CHUNK // (groups * k))
    for start in range(0, n, some):
        codes[:, start : start + some] = (points[:, start : start + some] @ features).min(-1).indices
    return codes


def _sample(x: Tensor, p: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` points of each group, at even steps of the running total of their weights, so that all stand for the same weight.

    Inputs are uneven: the points of a few columns have most of the weight, and evenly spaced points miss some of them. Taking every
    fourth point gave 15 % more loss on such a matrix.
    """
    if x.shape[1] <= most:
        return x, p
    weight = p.sum(-1)
    total = weight.cumsum(1)
    steps = (torch.arange(most, device=x.device) + 0.5) / most
    picked = torch.searchsorted(total, total[:, -1:] * steps).clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, 2)
    share = torch.where(weight[..., None] > 0, p / weight[..., None], 0.0)
    return x.gather(1, picked), share.gather(1, picked)


def _sums(values: Tensor, codes: Tensor, k: int) -> Tensor:
    """values (groups, n, 2) added up by code -> (groups, k, 2)."""
    groups = len(values)
    flat = (codes + k * torch.arange(groups, device=codes.device)[:, None]).flatten()
    return torch.zeros(groups * k, 2, dtype=values.dtype, device=values.device).index_add_(0, flat, values.flatten(0, 1)).view(groups, k, 2)


def _statistics(x: Tensor, p: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and costs of the clusters by coordinate, each (groups, k, 2). An empty cluster's mean is its centroid."""
    sums = _native_sums(x, p, centroids)
    weight, moved, squares = (sums if sums is not None else _sums_by_cluster(x, p, centroids)).unbind(2)
    shift = torch.where(weight > 0, moved / weight, 0.0)
    cost = (squares - weight * shift.square()).clamp(min=0)
    return weight, centroids + shift, cost


def _sums_by_cluster(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor:
    """The definition: sums of p, p (x - c) and p (x - c)^2 over the points of each centroid, (groups, k, 3, 2)."""
    k = centroids.shape[1]
    codes = nearest_pairs(x, p, centroids)
    away = x - centroids.gather(1, codes[..., None].expand(-1, -1, 2))
    return torch.stack([_sums(values, codes, k) for values in (p, p * away, p * away.square())], 2)


def _native_sums(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor | None:
    """The same in the native module; None off the CPU and without it."""
    if x.device.type != "cpu":
        return None
    x, p, centroids = (values.contiguous() for values in (x, p, centroids))
    sums = workshop.sum_clusters(x.numpy(), p.numpy(), centroids.numpy(), torch.get_num_threads())
    return None if sums is None else torch.from_numpy(sums)


def _round(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor:
    """One round of Lloyd's iteration. The i-th empty cluster goes to the edge of the i-th most costly one."""
    weight, mean, cost = _statistics(x, p, centroids)
    empty = weight.sum(-1) == 0
    if not bool(empty.any()):
        return mean
    rank = (empty.cumsum(1) - 1).clamp(min=0)
    by_cost = torch.where(empty, -1.0, cost.sum(-1)).argsort(dim=1, descending=True, stable=True)
    costly = by_cost.gather(1, rank)[..., None].expand(-1, -1, 2)
    edge = mean + _spread(weight, cost)
    return torch.where(empty[..., None], edge.gather(1, costly), mean)


def _split(x: Tensor, p: Tensor, centroids: Tensor) -> Tensor:
    weight, mean, cost = _statistics(x, p, centroids)
    away = _spread(weight, cost)
    return torch.cat([mean - away, mean + away], 1)


def _spread(weight: Tensor, cost: Tensor) -> Tensor:
    """The standard deviation of each cluster in the coordinate that costs most, 0 in the other, (groups, k, 2)."""
    deviation = torch.where(weight > 0, cost / weight, 0.0).sqrt()
    widest = cost == cost.amax(-1, keepdim=True)
    widest[..., 1] &= ~widest[..., 0]
    return torch.where(widest, deviation, 0.0)
