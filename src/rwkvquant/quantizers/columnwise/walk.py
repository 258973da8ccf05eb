"""Codes column by column, with error feedback, and a column scale that is fitted when its column is rounded.

    error = (w_c - s d_c t) / U_cc        w_F -= error U_c,F        F  the columns after c, in the order of rounding

as in uniform/gptq.py, with U of shared/factor.py. No columns share a scale, so they may be taken in any order. The scale of a column is
fitted to its weights as corrected so far by Lloyd's iteration: codes nearest to w / (s d), then d = sum s w t / sum (s t)^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.columnwise.columns import feed_back
from rwkvquant.quantizers.columnwise.state import State, as_half
from rwkvquant.quantizers.shared.factor import InverseFactor

BLOCK = 128  # columns between products with all later columns
FITS = 2  # of a column's scale; with 8 the loss before `update.py` is 2 to 4 % lower; after it, this was not measured


def walk(W: Tensor, state: State, factor: InverseFactor | None, block_size: int = BLOCK) -> Tensor:
    """W (rows, cols). Sets the codes and column scales of `state`; without a factor, columns do not make up for errors.

    Returns the weights as they were when they were rounded, (cols, rows).
    """
    order = torch.arange(W.shape[1], device=W.device) if factor is None else factor.order
    corrected = W.T[order].contiguous()  # (columns, rows), in the order of rounding
    for start in range(0, len(corrected), block_size):
        block = corrected[start : start + block_size]
        stop = start + len(block)
        U = None if factor is None else factor.U[start:stop, start:stop]
        errors = feed_back(state, order[start:stop], block, U, FITS)
        if errors is None:
            errors = round_block(state, order[start:stop], block, U)
        if factor is not None:
            corrected[stop:].addmm_(factor.U[start:stop, stop:].T, errors, alpha=-1)
    result = torch.empty_like(corrected)
    result[order] = corrected
    return result


def round_block(state: State, columns: Tensor, block: Tensor, U: Tensor | None) -> Tensor:
    """The definition. Sets codes and scales of `columns` (numbers). block (columns, rows), corrected in place; U of them -> error / U_cc,
    zeros without U."""
    s, s2 = state.row_scale, state.row_scale.square()
    middles = {width: (table[1:] + table[:-1]) / 2 for width, table in state.tables.items()}
    errors = torch.zeros_like(block)
    for i, (column, width) in enumerate(zip(columns.tolist(), state.widths[columns].tolist(), strict=True)):
        table = state.tables[width]
        codes, scale = _fit(block[i] / s, s2, table, middles[width], state.col_scale[column])
        state.codes[column], state.col_scale[column] = codes.to(torch.uint8), scale
        if U is not None:
            errors[i] = (block[i] - s * (scale * table[codes])) / U[i, i]
            block[i + 1 :].addr_(U[i, i + 1 :], errors[i], alpha=-1)
    return errors


def _fit(w: Tensor, s2: Tensor, table: Tensor, middle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """w (rows,) divided by row scales -> codes (rows,) int64, and the column scale that they are nearest for."""
    for _ in range(FITS):
        t = table[torch.searchsorted(middle, w / scale)]
        st = s2 * t
        fitted = st.dot(w) / st.dot(t)
        scale = torch.where((fitted > 0) & fitted.isfinite(), fitted, scale)
    scale = as_half(scale)
    return torch.searchsorted(middle, w / scale), scale
