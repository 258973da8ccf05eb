"""Codes from codebooks, column by column with error feedback: what plain and compressed codebooks have in common.

    error = (w_q - s_r c) / U_qq        w_F -= error * U_q,F        c  the centroid of the block nearest to w_q / s_r,  F  what is behind q

as in gptq.py, whose factor U is used here. Tables are given for the whole matrix, or fitted when their column block begins, to the
weights as corrected so far; a run of lazy updates ends where a block begins, so that the fit sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rwkvquant.quantizers.clustering import nearest_codes
from rwkvquant.quantizers.gptq import InverseFactor

Fit = Callable[[Tensor, slice], Tensor]  # weights (rows, columns of a block) as corrected, which columns -> centroids (row blocks, K)
BLOCK = 128  # columns between products with all columns behind


def feedback_codes(
    factor: InverseFactor, W: Tensor, centroids: Tensor, row_scale: Tensor, group_rows: int, group_cols: int, block_size: int = BLOCK
) -> Tensor:
    """Codes (rows, cols) uint8 for W with all codebooks given, centroids (row blocks, column blocks, K) in any order of values."""
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    ascending = centroids.sort(dim=-1, stable=True)
    W = W[:, factor.order]  # a copy, corrected in place
    for start in range(0, W.shape[1], block_size):
        columns = slice(start, min(start + block_size, W.shape[1]))
        _round_columns(factor, W, codes, columns, ascending.values, ascending.indices, row_scale, group_rows, group_cols)
    return codes


def fit_and_feed_back(
    factor: InverseFactor, W: Tensor, row_scale: Tensor, group_rows: int, group_cols: int, fit: Fit
) -> tuple[Tensor, Tensor]:
    """Codes (rows, cols) uint8 and centroids (row blocks, column blocks, K): fitted block by block to the weights as corrected so far, or
    all of them to the original weights where the factor has the columns out of order."""
    blocks = [slice(start, min(start + group_cols, W.shape[1])) for start in range(0, W.shape[1], group_cols)]
    if factor.order.tolist() != list(range(W.shape[1])):
        centroids = torch.stack([fit(W[:, columns], columns) for columns in blocks], 1)
        return feedback_codes(factor, W, centroids, row_scale, group_rows, group_cols), centroids
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    found = []
    W = W.clone()  # corrected in place
    for columns in blocks:
        found.append(fit(W[:, columns], columns))
        ascending = torch.stack(found[-1:], 1).sort(dim=-1, stable=True)
        first = columns.start
        _round_columns(factor, W, codes, columns, ascending.values, ascending.indices, row_scale, group_rows, group_cols, first)
    return codes, torch.stack(found, 1)


def _round_columns(
    factor: InverseFactor,
    W: Tensor,
    codes: Tensor,
    columns: slice,
    centroids: Tensor,
    names: Tensor,
    row_scale: Tensor,
    group_rows: int,
    group_cols: int,
    first: int = 0,
) -> None:
    """Round a run of columns of W, which stand in the order of rounding; correct all behind them; write codes in the original order.

    centroids ascend, and names are their codes, both (row blocks, column blocks from the column `first` on, K).
    """
    U, start, stop = factor.U, columns.start, columns.stop
    block = W[:, columns].T.contiguous()  # (columns, rows)
    errors = torch.empty_like(block)
    scale = row_scale[:, 0]
    for i, q in enumerate(factor.order[columns].tolist()):
        at = (q - first) // group_cols
        table, name = (of[:, at].repeat_interleave(group_rows, 0)[: len(W)] for of in (centroids, names))  # (rows, K)
        place = nearest_codes((block[i] / scale)[:, None], table).long()
        codes[:, q] = name.gather(1, place)[:, 0]
        row = U[start + i]
        errors[i] = (block[i] - scale * table.gather(1, place)[:, 0]) / row[start + i]
        block[i + 1 :].addr_(row[start + i + 1 : stop], errors[i], alpha=-1)
    W[:, stop:].addmm_(errors.T, U[start:stop, stop:], alpha=-1)
