"""One table for all columns of one width: weighted k-means in one dimension (Lloyd-Max), on weights divided by their scales.

Millions of weights share a table, so they are first put into narrow bins. Each bin counts as one point, with the mean and the sum of its
weights. shared/clustering.py then finds the best table exactly. Codes of 6 bits are evenly spaced and need none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.kernels.gemv_columnwise import LARGEST_ENTRY
from rwkvquant.kernels.gemv_sections import MIDDLE, TABLED
from rwkvquant.quantizers.shared.clustering import exact_kmeans, nearest_codes

BINS = 1024
CHUNK = 1 << 15  # weights that are put into bins at a time: what is computed for them stays in the cache
REACH = 8.0  # bins reach so many root mean squares to either side
EVEN_REACH = 3.33  # of codes of 6 bits: the best for normally distributed weights


def fit_table(x: Tensor, p: Tensor, width: int) -> tuple[Tensor, float]:
    """x, p (columns, rows): weights divided by their scales, and how much each counts -> table (2**width,), ascending, and step.

    step * table are the centroids. If nothing counts, x is taken as normally distributed.
    """
    size = float(((p * x.square()).sum(dtype=torch.float64) / p.sum(dtype=torch.float64).clamp(min=1e-300)).sqrt()) if x.numel() else 0.0
    if not size > 0:
        quantiles = (torch.arange(BINS, dtype=torch.float64, device=x.device) + 0.5) / BINS
        x, size = torch.special.ndtri(quantiles)[None], 1.0
        p = torch.ones_like(x)
    if width not in TABLED:
        table = torch.arange(-MIDDLE, MIDDLE, dtype=x.dtype, device=x.device)
        return table, size * EVEN_REACH / MIDDLE
    means, weights = _binned(x, p, size)
    table, step = _whole(means, weights, exact_kmeans(means[None], weights[None], 1 << width)[0])
    return table.to(x.dtype), step


def _whole(x: Tensor, p: Tensor, centroids: Tensor) -> tuple[Tensor, float]:
    """Whole numbers and the step that make centroids (K,) lose least by rounding; the largest number is LARGEST_ENTRY or less."""
    counts = torch.zeros_like(centroids).index_add_(0, nearest_codes(x[None], centroids[None])[0].long(), p)
    steps = centroids.abs().max() / torch.arange(LARGEST_ENTRY, LARGEST_ENTRY // 2, -1, device=x.device)[:, None]
    whole = (centroids / steps).round()  # (steps, K)
    best = int((counts * (centroids - steps * whole).square()).sum(1).argmin())
    return whole[best], float(steps[best])


def _binned(x: Tensor, p: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Means and sums of weights of the bins that have any, float64."""
    weights, moments = torch.zeros(2, BINS, dtype=torch.float64, device=x.device)
    some = max(1, CHUNK // x.shape[1])
    for values, counts in zip(x.split(some), p.expand(x.shape).split(some), strict=True):
        place = ((values / size + REACH) * (BINS / (2 * REACH))).long().clamp_(0, BINS - 1).flatten()
        weights.index_add_(0, place, counts.flatten().double())
        moments.index_add_(0, place, (counts * values).flatten().double())
    counted = weights > 0
    return moments[counted] / weights[counted], weights[counted]
