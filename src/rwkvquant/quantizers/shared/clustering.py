"""One-dimensional weighted k-means for many small groups at once: exactly, by dynamic programming, and by Lloyd's iteration.

    x  (groups, n)  points      p  (groups, n)  weights, none negative      c  (groups, k)  centroids, ascending

    minimise   sum_i  p_i (x_i - c_code(i))^2

In one dimension the best clusters are runs of the sorted points, so the optimum can be computed exactly. With S0, S1, S2 the
sums of p, p x and p x^2 over the points i .. j-1 of a run, and m = S1 / S0 its mean,

    cost(i, j) = S2 - S1^2 / S0  (+ S0 (m - round(m))^2)            D_l(j) = min over i <= j of  D_(l-1)(i) + cost(i, j)

D_l(j) is the least cost of the first j points in l runs. With `limits`, centroids are whole numbers in that range. The best
one for a run is its mean, rounded and clamped, because the cost is a parabola around the mean. So the result is the optimum
over *stored* codebooks; the real-valued optimum, rounded, is not. docs/methods/kmeans.md has the proofs.

The plain O(k n^2) method is enough: groups have 64 or 128 points, and a row of D for thousands of groups is one vector operation.

Gives up: the joint optimum over codebook and row scale, and everything off the Hessian's diagonal; see codebook/gptvq.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rwkvquant.kernels import workshop

CHUNK_GROUPS = 2048  # groups clustered at a time: at 64 points and 8 centroids, temporaries of 10 MB
STARTS = ("quantiles", "mahalanobis")
NATIVE_CENTROIDS = 16


def exact_kmeans(x: Tensor, weights: Tensor, k: int, limits: tuple[int, int] | None = None, most: int | None = None) -> Tensor:
    """x (groups, n), weights (groups, n) -> centroids (groups, k) of least cost, ascending, in the type of x.

    Points of weight 0 cost nothing, and the centroid of a run of only such points is their plain mean. In a group where all
    weights are 0, all points count equally. Computed in float64. With `most`, groups are first thinned to that many points.
    """
    chunks = (thinned(*chunk, most) if most else chunk for chunk in _chunks(x, weights))
    return torch.cat([_exact(*chunk, k, limits) for chunk in chunks]).to(x.dtype)


def thinned(x: Tensor, p: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Sorted x, p (groups, n) -> at most `most` points in each group: means of equally many neighbours, with the sums of their weights.

    Groups that cannot be split into equal parts stay as they are.
    """
    each = -(-x.shape[1] // most)
    if each == 1 or x.shape[1] % each:
        return x, p
    x, p = (part.view(len(x), -1, each) for part in (x, p))
    total = p.sum(2)
    return torch.where(total > 0, (x * p).sum(2) / total, x.mean(2)), total


def lloyd_kmeans(x: Tensor, weights: Tensor, k: int, start: str = "quantiles", most: int = 1000) -> Tensor:
    """x (groups, n), weights (groups, n) -> centroids (groups, k), ascending: assign, average, until no centroid moves.

    `start`: "quantiles", every (n/k)-th of the sorted points; or "mahalanobis", the start of GPTVQ's code: k evenly spaced
    points in the order of their distance from the group's mean. A cluster that becomes empty keeps its centroid. The cost
    falls in every round, so the iteration ends; `most` is a limit on its rounds.
    """
    return torch.cat([_lloyd(*chunk, k, start, most) for chunk in _chunks(x, weights)]).to(x.dtype)


def nearest_codes(x: Tensor, centroids: Tensor) -> Tensor:
    """x (groups, n), centroids (groups, k) ascending -> codes (groups, n) uint8; a tie goes to the lower centroid."""
    middles = (centroids[:, :-1] + centroids[:, 1:]) / 2
    return torch.searchsorted(middles.contiguous(), x.contiguous()).to(torch.uint8)


def clustering_cost(x: Tensor, weights: Tensor, centroids: Tensor) -> Tensor:
    """sum_i p_i (x_i - nearest centroid)^2 for each group, (groups,)."""
    codes = nearest_codes(x, centroids).long()
    return (weights * (x - centroids.gather(1, codes)).square()).sum(1)


def _chunks(x: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both as float64, the points of a group in ascending order, weights not all 0."""
    for points, p in zip(x.split(CHUNK_GROUPS), weights.split(CHUNK_GROUPS), strict=True):
        points, order = points.sort(dim=1, stable=True)
        points, p = points.double(), p.double().gather(1, order)
        yield points, torch.where(p.sum(1, keepdim=True) > 0, p, 1.0)


def _exact(x: Tensor, p: Tensor, k: int, limits: tuple[int, int] | None) -> Tensor:
    """Sorted x, p (groups, n) float64 -> centroids (groups, k): native on the CPU; else the definition, which is 10 to 50 times slower."""
    if x.device.type == "cpu" and k <= NATIVE_CENTROIDS:
        centroids = workshop.exact_kmeans(x.contiguous().numpy(), p.contiguous().numpy(), k, limits, torch.get_num_threads())
        if centroids is not None:
            return torch.from_numpy(centroids)
    return exact_definition(x, p, k, limits)


def exact_definition(x: Tensor, p: Tensor, k: int, limits: tuple[int, int] | None) -> Tensor:
    """Sorted x, p (groups, n) float64 -> centroids (groups, k)."""
    runs = _Runs(x, p, limits)
    n, groups = runs.points, len(x)
    least = torch.full((k + 1, n + 1, groups), torch.inf, dtype=x.dtype, device=x.device)  # D_l(j)
    least[0, 0] = 0
    starts = torch.arange(n + 1, device=x.device)[:, None]
    for j in range(n + 1):
        if j:
            cost = runs.cost(starts[:j], starts[j : j + 1])  # (j, groups)
            least[1:, j] = (least[:-1, :j] + cost).amin(1)
        for level in range(1, k + 1):  # a run may be empty, so that n may be smaller than k
            torch.minimum(least[level, j], least[level - 1, j], out=least[level, j])

    centroids = torch.empty(k, groups, dtype=x.dtype, device=x.device)
    end = torch.full((1, groups), n, device=x.device)
    for level in range(k, 0, -1):  # walk back, finding again the start that gave the least cost
        cost = torch.where(starts <= end, least[level - 1] + runs.cost(starts, end), torch.inf)
        start = cost.argmin(0, keepdim=True)
        centroids[level - 1] = runs.centroid(start, end)[0]
        end = start
    return _fill_empty(centroids.T)


class _Runs:
    """Sums over runs of sorted points, from running totals; points first, so that groups are side by side in memory."""

    def __init__(self, x: Tensor, p: Tensor, limits: tuple[int, int] | None) -> None:
        self.points = x.shape[1]
        self.limits = limits
        self.middle = (p * x).sum(1) / p.sum(1)  # points are counted from here, so that S2 - S1^2 / S0 loses few digits
        x = (x - self.middle[:, None]).T
        p = p.T
        self.totals = [_running(s) for s in (p, p * x, p * x * x, x)]

    def cost(self, start: Tensor, end: Tensor) -> Tensor:
        """start, end (m, groups or 1) -> (m, groups); 0 for an empty run."""
        S0, S1, S2 = (self._sum(total, start, end) for total in self.totals[:3])
        mean = torch.where(S0 > 0, S1 / S0, 0.0)
        cost = (S2 - S1 * mean).clamp_(min=0)
        if self.limits is not None:
            cost += S0 * (mean + self.middle - self._stored(mean + self.middle)).square()
        return cost

    def centroid(self, start: Tensor, end: Tensor) -> Tensor:
        """The weighted mean of a run, as stored; the plain mean where all weights are 0; nan where there are no points."""
        S0, S1, plain = (self._sum(self.totals[i], start, end) for i in (0, 1, 3))
        return self._stored(torch.where(S0 > 0, S1 / S0, plain / (end - start)) + self.middle)

    def _stored(self, mean: Tensor) -> Tensor:
        return mean if self.limits is None else mean.round().clamp(*self.limits)

    def _sum(self, total: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return _at(total, end) - _at(total, start)


def _running(s: Tensor) -> Tensor:
    """(n, groups) -> (n + 1, groups), the sums of the first 0 .. n."""
    return torch.nn.functional.pad(s.cumsum(0), (0, 0, 1, 0))


def _at(total: Tensor, index: Tensor) -> Tensor:
    """Rows of (n + 1, groups): the same ones for every group if index is (m, 1), else each group its own."""
    return total[index[:, 0]] if index.shape[1] == 1 else total.gather(0, index)


def _fill_empty(centroids: Tensor) -> Tensor:
    """Empty runs (nan) take the centroid before them, or the first there is: no code points at them, and order is kept."""
    filled = torch.where(centroids.isnan(), -torch.inf, centroids).cummax(1).values
    first = torch.where(filled.isinf(), torch.inf, filled).amin(1, keepdim=True)
    return torch.where(filled.isinf(), first, filled)


def _lloyd(x: Tensor, p: Tensor, k: int, start: str, most: int) -> Tensor:
    """Sorted x, p (groups, n) float64 -> centroids (groups, k)."""
    centroids = _start(x, k, start)
    for _ in range(most):
        codes = nearest_codes(x, centroids).long()
        weight = torch.zeros_like(centroids).scatter_add_(1, codes, p)
        total = torch.zeros_like(centroids).scatter_add_(1, codes, p * x)
        moved = torch.where(weight > 0, total / weight, centroids).sort(1).values
        if bool((moved == centroids).all()):
            break
        centroids = moved
    return centroids


def _start(x: Tensor, k: int, start: str) -> Tensor:
    assert start in STARTS, start
    n = x.shape[1]
    if start == "quantiles":
        return x[:, ((torch.arange(k, device=x.device) + 0.5) * n / k).long()]
    order = (x - x.mean(1, keepdim=True)).square().argsort(dim=1, stable=True)
    picked = (torch.arange(k, device=x.device) * (n - 1) / max(1, k - 1)).round().long()
    return x.gather(1, order[:, picked]).sort(1).values
