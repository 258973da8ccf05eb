"""Codes for codebooks, column by column with error feedback, for plain and compressed codebooks.

    error = (w_q - s_r c) / U_qq        w_F -= error * U_q,F        c  the centroid of the block nearest to w_q / s_r

as in uniform/gptq.py, with the factor U of shared/factor.py; F are the columns after q. Tables are given for the whole matrix, or are
fitted when their column block begins, to the weights as corrected so far. Lazy updates are applied before a block begins, so that
the fit sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwkvquant.quantizers.shared.clustering import nearest_codes
from rwkvquant.quantizers.shared.columns import TableColumns, feed_back
from rwkvquant.quantizers.shared.factor import InverseFactor

Fit = Callable[[Tensor, slice], Tensor]  # corrected weights (rows, columns of some blocks), these columns -> centroids (blocks, K)
BLOCK = 128  # columns between products with all later columns
FITTED = 1 << 22  # weights whose tables are fitted at a time, where all tables are fitted before the first column


def feedback_codes(
    factor: InverseFactor, W: Tensor, centroids: Tensor, row_scale: Tensor, group_rows: int, group_cols: int, block_size: int = BLOCK
) -> Tensor:
    """Codes (rows, cols) uint8 for W and given codebooks: centroids (row blocks, column blocks, K), which need not ascend."""
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    tables = _ascending(centroids, row_scale, group_rows)
    W = W[:, factor.order]  # a copy, corrected in place
    for start in range(0, W.shape[1], block_size):
        _round_columns(factor, W, codes, slice(start, min(start + block_size, W.shape[1])), tables, group_cols)
    return codes


def fit_and_feed_back(
    factor: InverseFactor, W: Tensor, row_scale: Tensor, group_rows: int, group_cols: int, fit: Fit
) -> tuple[Tensor, Tensor]:
    """Codes (rows, cols) uint8 and centroids (row blocks, column blocks, K). Tables are fitted block by block to the weights as corrected
    so far; where the factor has the columns in another order, all are fitted to the original weights."""
    row_blocks = -(-len(W) // group_rows)

    def runs(width: int) -> list[slice]:
        return [slice(start, min(start + width, W.shape[1])) for start in range(0, W.shape[1], width)]

    def fitted(corrected: Tensor, columns: slice) -> Tensor:
        centroids = fit(corrected[:, columns], columns)
        return centroids.view(row_blocks, -1, centroids.shape[1])

    if factor.order.tolist() != list(range(W.shape[1])):
        at_once = max(1, FITTED // (len(W) * group_cols)) * group_cols
        centroids = torch.cat([fitted(W, columns) for columns in runs(at_once)], 1)
        return feedback_codes(factor, W, centroids, row_scale, group_rows, group_cols), centroids
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    by_block = []
    W = W.clone()  # corrected in place
    for columns in runs(group_cols):
        by_block.append(fitted(W, columns))
        tables = _ascending(by_block[-1], row_scale, group_rows)
        _round_columns(factor, W, codes, columns, tables, group_cols, columns.start)
    return codes, torch.cat(by_block, 1)


def round_block(block: Tensor, U: Tensor, tables: TableColumns, table: list[int]) -> tuple[Tensor, Tensor]:
    """The definition: block (columns, rows), U of these columns -> codes uint8 and error / U_qq, both (columns, rows)."""
    block, codes, errors = block.clone(), torch.empty(block.shape, dtype=torch.uint8, device=block.device), torch.empty_like(block)
    scale = tables.rows["row_scale"]
    for i, at in enumerate(table):
        centroids, names = tables.rows["centroids"][at].T, tables.rows["names"][at].T  # (rows, K)
        place = nearest_codes((block[i] / scale)[:, None], centroids).long()
        codes[i] = names.gather(1, place)[:, 0]
        errors[i] = (block[i] - scale * centroids.gather(1, place)[:, 0]) / U[i, i]
        block[i + 1 :].addr_(U[i, i + 1 :], errors[i], alpha=-1)
    return codes, errors


def _ascending(centroids: Tensor, row_scale: Tensor, group_rows: int) -> TableColumns:
    ascending = centroids.sort(dim=-1, stable=True)
    return TableColumns(ascending.values, row_scale, group_rows, ascending.indices)


def _round_columns(
    factor: InverseFactor, W: Tensor, codes: Tensor, columns: slice, tables: TableColumns, group_cols: int, first: int = 0
) -> None:
    """Round a run of columns of W, which is in the order of rounding; correct all later columns; write codes in the original order.

    `tables` are those of the column blocks from the column `first` on, ascending.
    """
    start, stop, order = columns.start, columns.stop, factor.order[columns]
    block = W[:, columns].T.contiguous()  # (columns, rows)
    U, table = factor.U[start:stop, start:stop], ((order - first) // group_cols).tolist()
    rounded, errors = feed_back(tables, block, U, table) or round_block(block, U, tables, table)
    codes[:, order] = rounded.T
    W[:, stop:].addmm_(errors.T, factor.U[start:stop, stop:], alpha=-1)
