"""k-means of every row by itself, with weights for its columns: SqueezeLLM's tables, and the start of LNQ.

    w  (in,)  a row      p  (in,)  weights of its columns      s  row_scale      T  (K,)  the row's table, whole numbers of 8 bits

    minimise  sum_j  p_j (w_j - s T_code(j))^2

The centroids are those of exact one-dimensional k-means (shared/clustering.py); a row of many columns is thinned to POINTS points for it.
The scale lets the outermost centroid be 127.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import RowTablesTensor
from rwkvquant.codecs.rowtables import LARGEST_ENTRY
from rwkvquant.quantizers.shared.clustering import exact_kmeans
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF

POINTS = 256  # of a row; the cost of exact clustering grows with their square


def kmeans_rows(W: Tensor, bits: int, importance: Tensor | None = None) -> RowTablesTensor:
    """W (rows, cols), importance (cols,) or (rows, cols), none negative -> tables of all rows and nearest codes."""
    weights = torch.ones_like(W) if importance is None else importance.to(W).expand(W.shape)
    tables, scale = stored_tables(exact_kmeans(W, weights, 2**bits, most=POINTS))
    return tensor_of(nearest(W, tables * scale), tables, scale)


def stored_tables(values: Tensor) -> tuple[Tensor, Tensor]:
    """values (rows, K) -> the nearest tables (rows, K) of whole numbers, and scales (rows, 1) that hold float16 values."""
    scale = (values.abs().amax(1, keepdim=True) / LARGEST_ENTRY).clamp(SMALLEST_HALF, LARGEST_HALF).half().to(values)
    return (values / scale).round().clamp(-LARGEST_ENTRY, LARGEST_ENTRY), scale


def nearest(W: Tensor, values: Tensor) -> Tensor:
    """W (rows, n), values (rows, K) in any order -> codes (rows, n) int64; a tie goes to the lower code."""
    return (W[:, :, None] - values[:, None]).abs().argmin(2)


def tensor_of(codes: Tensor, tables: Tensor, scale: Tensor) -> RowTablesTensor:
    return RowTablesTensor(codes.to(torch.uint8).cpu().numpy(), tables.to(torch.int8).cpu().numpy(), scale[:, 0].half().cpu().numpy())
