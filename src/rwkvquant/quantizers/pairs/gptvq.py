"""GPTVQ in two dimensions: one code for two neighbouring columns of a row, a table of 2**bits pairs for `group_rows` rows
(arXiv:2402.15319, d = 2).

    W  (out, in)   weight      H  (in, in)   X^T X / tokens, damped      U  upper triangular, H^-1 = U^T U, of the columns in the
    s  (out,)      row_scale   c  (2**bits, 2)  whole numbers, -64..63      order of rounding, the two of a pair side by side

A pair at q, q+1 with the error e = (e0, e1) costs, when the columns F after it make up for it as well as possible,

    e ([H_F^-1] of the pair)^-1 e^T  =  |a|^2,     a = e (U of the pair)^-1:    a0 = e0 / U00,    a1 = (e1 - a0 U01) / U11

and then w_F -= a U_pair,F. So the best code has the least |a|^2, and the update is that of uniform/gptq.py, two columns at a time.
All tables are fitted (clustering.py) before the start, with the diagonal of H as weights, so act-order costs nothing: pairs are
rounded in falling order of the sums of their diagonals. Then rounds follow, which never raise the loss under H as given. Each moves
the tables (update.py) and chooses codes again: with feedback in the first round, by coordinate descent (descent.py) in later ones.

Gives up: row scales are fixed from the original weights; one table serves all columns.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, PairCodebookTensor
from rwkvquant.quantizers.pairs.clustering import nearest_pairs, pair_kmeans
from rwkvquant.quantizers.pairs.descent import STEPS
from rwkvquant.quantizers.pairs.update import update_pairs
from rwkvquant.quantizers.pairs.walk import feedback_pairs
from rwkvquant.quantizers.shared.descent import descend
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, LIMITS, SMALLEST_HALF
from rwkvquant.quantizers.shared.residual import Residual

ROUNDS = 3  # the loss is 0.2 to 1.3 % above that of ten rounds
PASSES = 2  # of descent in a round

Array = Tensor | NDArray[np.floating]


def pair_codebooks(W: Array, bits: int = 6, group_rows: int = 16, importance: Array | None = None) -> PairCodebookTensor:
    """k-means without feedback: W (rows, cols), importance (cols,), none negative -> tables and nearest codes."""
    W = torch.as_tensor(W)
    weights = torch.ones(W.shape[1]) if importance is None else torch.as_tensor(importance)
    tables, row_scale = fit_pair_tables(W, bits, group_rows, weights.to(W))
    x, p = _points(W, row_scale, weights.to(W), group_rows)
    codes = nearest_pairs(x, p, tables).view(-1, -(-W.shape[1] // 2))[: len(W)]
    return pair_tensor(codes, tables, row_scale, bits, W.shape[1], group_rows)


def gptvq_pairs(
    W: Array, H: Array, *, bits: int = 6, group_rows: int = 16, damping: float = 0.05, act_order: bool = True, rounds: int = ROUNDS
) -> PairCodebookTensor:
    """W (out, in) and H (in, in) -> codes and tables. Computed in the type of W: float32, or float64."""
    W = torch.as_tensor(W)
    H = torch.as_tensor(H).to(W)
    factor = factorize_pairs(H, damping=damping, act_order=act_order)
    return gptvq_pairs_with(factor, W, H, bits, group_rows, rounds)


def factorize_pairs(H: Tensor, *, damping: float, act_order: bool) -> InverseFactor:
    """As factorize, with the columns of a pair side by side; an odd number of columns is filled up with a column of zeros."""
    H = torch.nn.functional.pad(H, (0, len(H) % 2, 0, len(H) % 2))
    pairs = H.diagonal().view(-1, 2).sum(1)
    order = pairs.argsort(descending=True, stable=True) if act_order else torch.arange(len(pairs), device=H.device)
    columns = torch.stack([2 * order, 2 * order + 1], 1).flatten()
    factor = factorize(H[columns][:, columns], damping=damping, act_order=False)
    return InverseFactor(factor.U, columns, H.diagonal().clone(), factor.damping)


def gptvq_pairs_with(
    factor: InverseFactor, W: Tensor, H: Tensor, bits: int = 6, group_rows: int = 16, rounds: int = ROUNDS
) -> PairCodebookTensor:
    """gptvq_pairs with a given factor of H, made by factorize_pairs."""
    cols = W.shape[1]
    tables, row_scale = fit_pair_tables(W, bits, group_rows, factor.diagonal[:cols])
    q = pair_tensor(feedback_pairs(factor, W, tables, row_scale, group_rows), tables, row_scale, bits, cols, group_rows)
    return refine_pairs(factor, W, H, q, rounds)


def refine_pairs(factor: InverseFactor, W: Tensor, H: Tensor, q: PairCodebookTensor, rounds: int) -> PairCodebookTensor:
    """`rounds` times: move tables to less loss under H (in, in), then choose codes again. The loss of what is stored never rises."""
    if rounds:
        residual = Residual(W, H, q.decode())
        for i in range(rounds):
            q = update_pairs(W, H, q, residual)
            q = descend(STEPS, W, H, q, PASSES, residual) if i else reassign_pairs(factor, W, H, q, residual)
    return q


def fit_pair_tables(W: Tensor, bits: int, group_rows: int, importance: Tensor) -> tuple[Tensor, Tensor]:
    """W (rows, cols), importance (cols,) -> tables (row groups, 2**bits, 2) whole numbers and row_scale (rows, 1) holding float16 values.

    A row's scale is t times its root mean square; t is the smallest that reaches every centroid of its group, as in codebook/kmeans.py.
    """
    size = W.square().mean(1, keepdim=True).sqrt().clamp(min=SMALLEST_HALF)
    real = pair_kmeans(*_points(W, size, importance, group_rows), 2**bits)
    low, high = LIMITS
    reach = torch.maximum(real.amax((1, 2)) / high, real.amin((1, 2)) / low)
    ideal = reach.repeat_interleave(group_rows)[: len(W), None] * size
    row_scale = ideal.clamp(SMALLEST_HALF, LARGEST_HALF).half().to(W.dtype)
    t = reach.clamp(min=SMALLEST_HALF)[:, None, None]
    return (real / t).round().clamp(low, high), row_scale


def reassign_pairs(
    factor: InverseFactor, W: Tensor, H: Tensor, q: PairCodebookTensor, residual: Residual | None = None
) -> PairCodebookTensor:
    """New codes for given tables, with error feedback; a row keeps its old codes where the new ones lose more.

    `residual` is that of q, and is updated.
    """
    residual = residual or Residual(W, H, q.decode())
    before, kept = residual.losses(), (residual.E, residual.G)
    tables = torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO
    row_scale = torch.from_numpy(q.row_scale).to(W)[:, None]
    new = replace(q, codes=feedback_pairs(factor, W, tables, row_scale, q.group_rows).cpu().numpy())
    residual.reset(new.decode())
    better = residual.gained(before, residual.losses())
    residual.restore(~better, kept)
    return replace(q, codes=np.where(better.cpu().numpy()[:, None], new.codes, q.codes))


def pair_tensor(codes: Tensor, tables: Tensor, row_scale: Tensor, bits: int, cols: int, group_rows: int) -> PairCodebookTensor:
    """codes (rows, ceil(cols/2)), tables (row groups, 2**bits, 2) whole numbers, row_scale (rows, 1) -> the logical tensor."""
    stored = (tables + CENTROID_ZERO).to(torch.uint8).cpu().numpy()
    half = row_scale[:, 0].cpu().numpy().astype(np.float16)
    return PairCodebookTensor(codes.to(torch.uint8).cpu().numpy(), bits, stored, half, cols, group_rows)


def _points(W: Tensor, scale: Tensor, importance: Tensor, group_rows: int) -> tuple[Tensor, Tensor]:
    """The points to cluster, pairs of w / scale, and their weights, importance * scale^2, both (row groups, group_rows * pairs, 2).

    Beyond the edge of the matrix weights are 0.
    """
    rows, cols = W.shape
    group_rows = min(group_rows, rows)
    missing = (0, cols % 2, 0, -rows % group_rows)
    inside = (scale / scale.amax()).square().expand(W.shape)
    importance = importance if bool((importance > 0).any()) else torch.ones_like(importance)
    points = torch.nn.functional.pad(W / scale, missing)
    weights = torch.nn.functional.pad(importance * inside, missing)
    groups = len(points) // group_rows
    return points.view(groups, -1, 2), weights.reshape(groups, -1, 2)
