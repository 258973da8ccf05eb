"""k-means codebooks: every block of `group_rows` x `group_cols` weights has its own 2**bits centroids ("VQ", d=1).

    W  (rows, cols)      s  (rows,)  row_scale      c  (2**bits,)  a block's centroids, whole numbers in -64..63

    minimise over c and codes   sum over a block of   importance (w - s_r c_code)^2  =  importance s_r^2 (w / s_r - c_code)^2

so the points to cluster are w / s_r with weights importance * s_r^2.

The scales come first, from a fit without rounding; large blocks are thinned to POINTS points for it. A row's scale is t times its
root mean square, so that the rows of a block share the shape of their codebook but not its size. t is the smallest number with which
63 and -64 reach the outermost centroids of all blocks of these rows. Rounding the scale to float16 can put a centroid at 63.03; it is
clamped. Centroids are means, so scales are about half as large as the largest weight would need. Then the clustering is done again
with centroids that can be stored, and each weight gets the code of the nearest one.

Gives up: scales are not searched; a smaller one would clip the outermost centroids of one block and refine all others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookFactors, CodebookTensor
from rwkvquant.quantizers.shared.clustering import exact_kmeans, nearest_codes
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, LIMITS, SMALLEST_HALF

POINTS = 128  # of a block, to find the range of its centroids; the cost of exact clustering grows with their square


def kmeans_codebooks(
    W: Tensor | NDArray[np.floating],
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    importance: Tensor | NDArray[np.floating] | None = None,
) -> CodebookTensor:
    """W (rows, cols) float32 or float64; importance (cols,) or (rows, cols), none negative -> codebooks and nearest codes."""
    W = torch.as_tensor(W)
    weights = expand_importance(importance, W)
    row_scale = find_row_scale(W, bits, group_rows, group_cols, weights)
    centroids = fit_codebooks(W, row_scale, bits, group_rows, group_cols, weights)
    points = split_blocks(W / row_scale, group_rows, group_cols)
    codes = join_blocks(nearest_codes(points, centroids), W.shape, group_rows, group_cols)
    blocks = (-(-len(W) // group_rows), -(-W.shape[1] // group_cols), 2**bits)
    return codebook_tensor(codes, centroids.view(blocks), row_scale, bits, group_rows, group_cols)


def find_row_scale(W: Tensor, bits: int, group_rows: int, group_cols: int, importance: Tensor | None = None) -> Tensor:
    """W (rows, cols) -> (rows, 1) holding float16 values, in the type of W; within a block in proportion to the rows' root mean squares."""
    size = W.square().mean(1, keepdim=True).sqrt().clamp(min=SMALLEST_HALF)
    points, weights = block_points(W, size, importance, group_rows, group_cols)
    centroids = exact_kmeans(points, weights, 2**bits, most=POINTS).view(-(-len(W) // group_rows), -1)
    low, high = LIMITS
    reach = torch.maximum(centroids.amax(1) / high, centroids.amin(1) / low)
    ideal = reach.repeat_interleave(group_rows)[: len(W), None] * size
    return ideal.clamp(SMALLEST_HALF, LARGEST_HALF).half().to(W.dtype)


def fit_codebooks(W: Tensor, row_scale: Tensor, bits: int, group_rows: int, group_cols: int, importance: Tensor | None) -> Tensor:
    """W (rows, cols) -> the best centroids that can be stored with this row_scale, (blocks, 2**bits) whole numbers, ascending."""
    points, weights = block_points(W, row_scale, importance, group_rows, group_cols)
    return exact_kmeans(points, weights, 2**bits, LIMITS)


def expand_importance(importance: Tensor | NDArray[np.floating] | None, W: Tensor) -> Tensor | None:
    return None if importance is None else torch.as_tensor(importance).to(W).expand(W.shape)


def split_blocks(W: Tensor, group_rows: int, group_cols: int, fill: float | None = None) -> Tensor:
    """(rows, cols) -> (blocks, group_rows * group_cols), blocks row by row. Where W ends inside a block, its last row and
    column are repeated, or `fill` is used."""
    rows, cols = W.shape
    missing = (0, -cols % group_cols, 0, -rows % group_rows)
    pad = torch.nn.functional.pad
    filled = pad(W[None], missing, mode="replicate")[0] if fill is None else pad(W, missing, value=fill)
    blocks = filled.view(len(filled) // group_rows, group_rows, -1, group_cols).transpose(1, 2)
    return blocks.reshape(-1, group_rows * group_cols)


def join_blocks(blocks: Tensor, shape: tuple[int, ...], group_rows: int, group_cols: int) -> Tensor:
    """The inverse of split_blocks: (blocks, group_rows * group_cols) -> (rows, cols)."""
    rows, cols = shape
    across = -(-cols // group_cols)
    W = blocks.view(-1, across, group_rows, group_cols).transpose(1, 2).reshape(-1, across * group_cols)
    return W[:rows, :cols].contiguous()


def codebook_tensor(
    codes: Tensor,
    centroids: Tensor,
    row_scale: Tensor,
    bits: int,
    group_rows: int,
    group_cols: int,
    factors: CodebookFactors | None = None,
) -> CodebookTensor:
    """codes (rows, cols), centroids (row blocks, column blocks, 2**bits) whole numbers, row_scale (rows, 1) -> the logical tensor."""
    stored = (centroids + CENTROID_ZERO).to(torch.uint8).cpu().numpy()
    half = row_scale[:, 0].cpu().numpy().astype(np.float16)
    return CodebookTensor(codes.to(torch.uint8).cpu().numpy(), bits, stored, half, group_rows, group_cols, factors)


def block_points(W: Tensor, scale: Tensor, importance: Tensor | None, group_rows: int, group_cols: int) -> tuple[Tensor, Tensor]:
    """The points to cluster, w / scale, and their weights, importance * scale^2, both (blocks, group_rows * group_cols).

    Beyond the edge of the matrix weights are 0. A block whose importance is 0 everywhere is treated as if it were 1 everywhere.
    """
    inside = (scale / scale.amax()).square().expand(W.shape)
    plain = split_blocks(inside, group_rows, group_cols, fill=0)
    points = split_blocks(W / scale, group_rows, group_cols)
    if importance is None:
        return points, plain
    weights = split_blocks(importance * inside, group_rows, group_cols, fill=0)
    return points, torch.where(weights.sum(1, keepdim=True) > 0, weights, plain)
