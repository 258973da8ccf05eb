"""k-means, codebooks and GPTVQ by their definitions: NumPy, one group, one row, one column at a time. Slow; for tests."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor

Array = NDArray[np.float64]


def run_cost(x: Array, p: Array, whole: bool) -> tuple[float, float]:
    """One cluster's cost and centroid."""
    if len(x) == 0:
        return 0.0, np.nan
    c = float((p * x).sum() / p.sum() if p.sum() > 0 else x.mean())
    if whole:
        c = float(np.clip(np.rint(c), -64, 63))
    return float((p * (x - c) ** 2).sum()), c


def least_cost_of_all_partitions(x: Array, p: Array, k: int, whole: bool) -> float:
    """Every way to cut the sorted points into k runs, empty ones included."""
    order = np.argsort(x, kind="stable")
    x, p, n = x[order], p[order], len(x)
    least = np.inf
    for cuts in itertools.combinations_with_replacement(range(n + 1), k - 1):
        ends = (0, *cuts, n)
        least = min(least, sum(run_cost(x[a:b], p[a:b], whole)[0] for a, b in itertools.pairwise(ends)))
    return least


def kmeans_by_definition(x: Array, p: Array, k: int, whole: bool) -> Array:
    """x (n,) -> centroids (k,), not sorted where runs are empty, by the recursion over runs; each cost is computed from its points."""
    order = np.argsort(x, kind="stable")
    x, p, n = x[order], p[order], len(x)
    runs = {(i, j): run_cost(x[i:j], p[i:j], whole) for i in range(n + 1) for j in range(i, n + 1)}
    least = np.full((k + 1, n + 1), np.inf)
    before = np.zeros((k + 1, n + 1), int)
    least[0, 0] = 0
    for level, j in itertools.product(range(1, k + 1), range(n + 1)):
        costs = [least[level - 1, i] + runs[i, j][0] for i in range(j + 1)]
        before[level, j] = int(np.argmin(costs))
        least[level, j] = costs[before[level, j]]
    centroids, j = [], n
    for level in range(k, 0, -1):
        i = before[level, j]
        centroids.append(runs[i, j][1])
        j = i
    result = np.array(centroids[::-1])
    return np.where(np.isnan(result), result[~np.isnan(result)][0], result)  # an empty run serves no point: any value will do


def code_by_definition(x: float, centroids: Array) -> int:
    """The nearest centroid; the first of equals."""
    return int(np.argmin(np.abs(x - centroids)))


def row_scales_by_definition(W: Array, k: int, group_rows: int, group_cols: int, importance: Array) -> NDArray[np.float16]:
    result = []
    for top in range(0, len(W), group_rows):
        block_rows = W[top : top + group_rows]
        size = np.sqrt((block_rows**2).mean(1, keepdims=True))
        reach = 0.0
        for left in range(0, W.shape[1], group_cols):
            b = slice(left, left + group_cols)
            p = importance[b] * size**2 * np.ones_like(block_rows[:, b])
            c = kmeans_by_definition((block_rows[:, b] / size).ravel(), p.ravel(), k, whole=False)
            reach = max(reach, c.max() / 63, -c.min() / 64)
        result += [np.float16(s) for s in (reach * size)[:, 0]]
    return np.array(result, np.float16)


def gptvq_by_definition(
    W: Array, H: Array, bits: int, group_rows: int, group_cols: int, *, damping: float, importance: Array | None = None
) -> CodebookTensor:
    """Eq. (2) of arXiv:2210.17323 with the codebooks of arXiv:2402.15319 (d = 1). W (rows, cols), H (cols, cols)."""
    rows, cols = W.shape
    k = 2**bits
    weight = np.ones(cols) if importance is None else importance
    row_scale = row_scales_by_definition(W, k, group_rows, group_cols, weight)
    s = row_scale.astype(np.float64)
    H = H + damping * H.diagonal().mean() * np.eye(cols)
    W = W.copy()
    codebooks = np.zeros((-(-rows // group_rows), -(-cols // group_cols), k), np.uint8)
    codes = np.zeros((rows, cols), np.uint8)
    for q in range(cols):
        if q % group_cols == 0:
            b = slice(q, q + group_cols)
            for block, top in enumerate(range(0, rows, group_rows)):
                scale = s[top : top + group_rows, None]
                x = W[top : top + group_rows, b] / scale
                p = weight[b] * scale**2 * np.ones_like(x)
                codebooks[block, q // group_cols] = kmeans_by_definition(x.ravel(), p.ravel(), k, whole=True) + CENTROID_ZERO
        Hinv = np.linalg.inv(H[q:, q:])  # H_F^-1
        for r in range(rows):
            c = codebooks[r // group_rows, q // group_cols].astype(np.float64) - CENTROID_ZERO
            codes[r, q] = code_by_definition(W[r, q] / s[r], c)
            W[r, q:] -= (W[r, q] - s[r] * c[codes[r, q]]) / Hinv[0, 0] * Hinv[0]  # Eq. (2)
    return CodebookTensor(codes, bits, codebooks, row_scale, group_rows, group_cols)
