"""The M-step of two-dimensional codebooks: for given codes, move all tables to where the loss is least.

    W  (rows, cols)     Q  what q decodes to     H  (cols, cols)     c  (2**bits, 2)  the table of a row group

    minimise over the tables    tr((W - Q) H (W - Q)^T)

Row groups are independent; each is a least-squares problem with 2 * 2**bits unknowns (shared/table_map.py). The preconditioner is the
diagonal that the diagonal of H gives. A table of wide rows has many weights for each of its numbers, and then some rows stand for all in
the curvature, A^T H A; the gradient is always that of all rows. The solution is rounded to whole numbers. A row group takes it only where
it then loses less than before, all its rows counted.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, PairCodebookTensor
from rwkvquant.quantizers.pairs.table_map import column_map, table_map
from rwkvquant.quantizers.shared.limits import LIMITS
from rwkvquant.quantizers.shared.residual import Residual
from rwkvquant.quantizers.shared.table_map import TableMap, least_squares

STEPS = 4  # eight are no better after codes are chosen again
SAMPLE = (
    256  # pairs of weights for each entry of a table; the curvature of a table is that of so many. With 64 the loss is up to 0.4 % higher
)


def update_pairs(W: Tensor, H: Tensor, q: PairCodebookTensor, residual: Residual | None = None) -> PairCodebookTensor:
    """W (rows, cols), H (cols, cols) -> the same codes, and tables that lose no more in any row group. `residual` is that of q, and is
    updated."""
    residual = residual or Residual(W, H, q.decode())
    tables, some = column_map(q, W), _some_rows(q, W)
    start = torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO
    diagonal = some.weights(residual.H.diagonal())

    def precondition(gradient: Tensor) -> Tensor:
        return torch.where(diagonal > 0, gradient / diagonal, 0.0)

    step = least_squares(tables.gather(residual.G), residual.H, some.spread, some.gather, precondition, 1, STEPS)
    moved = (start + step).round().clamp(*LIMITS)
    before, kept = residual.losses(), (residual.E, residual.G)
    D = tables.spread(moved - start)
    residual.E, residual.G = residual.E - D, torch.addmm(residual.G, residual.H, D, alpha=-1)
    better = residual.gained(_by_group(before, q), _by_group(residual.losses(), q))
    residual.restore(~better.repeat_interleave(q.group_rows)[: len(W)], kept)
    return replace(q, codebooks=(torch.where(better[:, None, None], moved, start) + CENTROID_ZERO).to(torch.uint8).cpu().numpy())


def _some_rows(q: PairCodebookTensor, like: Tensor) -> TableMap:
    """The map to some rows of each group, evenly spaced, that stand for all its rows in A^T H A: each is scaled to count for several."""
    rows, pairs = q.codes.shape
    height, most = min(q.group_rows, rows), -(-(SAMPLE << q.bits) // pairs)
    picked, count_for = [], []
    for start in range(0, rows, height):
        size = min(height, rows - start)
        count = min(most, size)
        picked.append(start + torch.arange(count, device=like.device) * size // count)
        count_for.append(torch.full((count, 1), size / count, dtype=like.dtype, device=like.device))
    some = table_map(q, like, torch.cat(picked))
    return TableMap(some.scale * torch.cat(count_for).sqrt(), some.index, some.shape)


def _by_group(losses: Tensor, q: PairCodebookTensor) -> Tensor:
    """(rows,) -> (row groups,)"""
    return torch.nn.functional.pad(losses, (0, -len(losses) % q.group_rows)).view(-1, q.group_rows).sum(1)
