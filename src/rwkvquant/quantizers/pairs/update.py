"""The M-step of two-dimensional codebooks: for given codes, move all tables to where the loss is least.

    W  (rows, cols)     Q  what q decodes to     H  (cols, cols)     c  (2**bits, 2)  the table of a row group

    minimise over the tables    tr((W - Q) H (W - Q)^T)

Row groups are independent; each is a least-squares problem with 2 * 2**bits unknowns (shared/table_map.py). The preconditioner is the
diagonal that the diagonal of H gives. The solution is rounded to whole numbers. A row group takes it only where it then loses less
than before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, PairCodebookTensor
from rwkvquant.quantizers.pairs.table_map import table_map
from rwkvquant.quantizers.shared.limits import LIMITS
from rwkvquant.quantizers.shared.loss import row_losses
from rwkvquant.quantizers.shared.table_map import least_squares

STEPS = 4  # eight are no better after codes are chosen again


def update_pairs(W: Tensor, H: Tensor, q: PairCodebookTensor) -> PairCodebookTensor:
    """W (rows, cols), H (cols, cols) -> the same codes, and tables that lose no more in any row group."""
    H = H.to(W)
    tables = table_map(q, W)
    start = torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO
    diagonal = tables.weights(H.diagonal())

    def precondition(gradient: Tensor) -> Tensor:
        return torch.where(diagonal > 0, gradient / diagonal, 0.0)

    gradient = tables.gather((W - tables.spread(start)) @ H)
    step = least_squares(gradient, H, tables.spread, tables.gather, precondition, 1, STEPS)
    moved = (start + step).round().clamp(*LIMITS)
    gained = row_losses(W, q.decode(), H) - row_losses(W, _with_tables(q, moved).decode(), H)
    gained = torch.nn.functional.pad(gained, (0, -len(gained) % q.group_rows)).view(-1, q.group_rows).sum(1)
    return _with_tables(q, torch.where(gained[:, None, None] > 0, moved, start))


def _with_tables(q: PairCodebookTensor, tables: Tensor) -> PairCodebookTensor:
    return replace(q, codebooks=(tables + CENTROID_ZERO).to(torch.uint8).cpu().numpy())
