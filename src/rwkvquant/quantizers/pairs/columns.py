"""Blocks of pairs of columns in the native module (kernels/workshop.py), for weights on the CPU. Elsewhere None is returned; then the
caller runs the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.kernels import workshop


class PairTables:
    """Tables (row groups, K, 2) of whole numbers and row_scale (rows,), as the native module takes them."""

    def __init__(self, tables: Tensor, row_scale: Tensor, group_rows: int) -> None:
        self.tables, self.row_scale = tables.transpose(1, 2).contiguous(), row_scale.flatten().contiguous()
        self.group_rows = group_rows

    def feed_back(self, block: Tensor, U: Tensor, alone: int) -> tuple[Tensor, Tensor] | None:
        """block (columns, rows) of corrected weights, U of these columns, alone: the pair whose second column does not count, or -1
        -> codes (pairs, rows) uint8 and a (columns, rows); or None."""
        codes = torch.empty(len(block) // 2, block.shape[1], dtype=torch.uint8)
        a = self._round(False, alone, block, U, codes)
        return None if a is None else (codes, a)

    def descend(self, G: Tensor, H: Tensor, codes: Tensor) -> Tensor | None:
        """G (columns, rows) and codes (pairs, rows) uint8, both changed in place, H of these columns -> the change of the values
        (columns, rows), or None."""
        return self._round(True, -1, G, H, codes)

    def _round(self, descent: bool, alone: int, block: Tensor, matrix: Tensor, codes: Tensor) -> Tensor | None:
        if block.device.type != "cpu":
            return None
        changes = workshop.round_pairs(
            descent,
            alone,
            self.group_rows,
            block.numpy(),
            matrix.contiguous().numpy(),
            self.tables.numpy(),
            self.row_scale.numpy(),
            codes.numpy(),
            torch.get_num_threads(),
        )
        return None if changes is None else torch.from_numpy(changes)
