"""Codes for given tables of pairs, two columns at a time with error feedback. gptvq.py has the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.pairs.columns import PairTables
from rwkvquant.quantizers.shared.factor import InverseFactor


def feedback_pairs(factor: InverseFactor, W: Tensor, tables: Tensor, row_scale: Tensor, group_rows: int, block_size: int = 128) -> Tensor:
    """Codes (rows, ceil(cols/2)) uint8 for W (rows, cols), and given tables (row groups, 2**bits, 2). block_size is even."""
    rows, real_cols = W.shape
    U, cols = factor.U, len(factor.order)
    pair_tables = PairTables(tables.to(W), row_scale, group_rows)
    order = factor.order[::2] // 2  # of the pairs
    W = torch.nn.functional.pad(W, (0, cols - real_cols))[:, factor.order]  # a copy, corrected in place
    codes = torch.empty(cols // 2, rows, dtype=torch.uint8, device=W.device)
    pairs = order.tolist()
    alone = pairs.index(real_cols // 2) if real_cols % 2 else -1
    for start in range(0, cols, block_size):
        stop = min(start + block_size, cols)
        block, of_block, mine = W[:, start:stop].T.contiguous(), U[start:stop, start:stop], alone - start // 2
        mine = mine if 0 <= mine < (stop - start) // 2 else -1
        rounded, a = pair_tables.feed_back(block, of_block, mine) or round_block(block, of_block, pair_tables, mine)
        codes[order[start // 2 : stop // 2]] = rounded
        W[:, stop:].addmm_(a.T, U[start:stop, stop:], alpha=-1)
    return codes.T.contiguous()


def round_block(block: Tensor, U: Tensor, tables: PairTables, alone: int = -1) -> tuple[Tensor, Tensor]:
    """The definition: block (columns, rows), U of these columns -> codes (pairs, rows) uint8 and a (columns, rows). The second column of
    the pair `alone` does not count."""
    block, a = block.clone(), torch.empty_like(block)
    codes = torch.empty(len(block) // 2, block.shape[1], dtype=torch.uint8, device=block.device)
    scale, group = tables.row_scale, torch.arange(block.shape[1], device=block.device) // tables.group_rows
    for i in range(0, len(block), 2):
        (u00, u01), (_, u11) = U[i : i + 2, i : i + 2].tolist()
        u11 = u11 if i // 2 != alone else float("inf")
        codes[i // 2] = _nearest(block[i], block[i + 1], tables, u00, u01, u11)
        c = tables.tables[group, :, codes[i // 2].long()]  # (rows, 2)
        a[i] = (block[i] - scale * c[:, 0]) / u00
        a[i + 1] = (block[i + 1] - scale * c[:, 1] - a[i] * u01) / u11
        block[i + 2 :].sub_(U[i : i + 2, i + 2 :].T @ a[i : i + 2])
    return codes, a


def _nearest(w0: Tensor, w1: Tensor, tables: PairTables, u00: float, u01: float, u11: float) -> Tensor:
    """w0, w1 (rows,) -> codes (rows,) of least |a|^2, computed on w / scale; the first of equals."""
    rows, groups = len(w0), len(tables.tables)
    height = min(tables.group_rows, rows)
    fill = (0, groups * height - rows)
    x0, x1 = (torch.nn.functional.pad(w / tables.row_scale, fill).view(groups, height, 1) for w in (w0, w1))
    a0 = (x0 - tables.tables[:, None, 0]) / u00  # (groups, height, K)
    a1 = (x1 - tables.tables[:, None, 1] - a0 * u01) / u11
    return (a0.square_() + a1.square_()).min(-1).indices.flatten()[:rows]
