"""Blocks of columns in the native module (kernels/workshop.py), for weights on the CPU. Elsewhere None is returned; then the caller
runs the definition.

Arrays have rows as their last axis, (.., rows), so that one column of many rows is one run of memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvquant.kernels import workshop
from rwkvquant.quantizers.shared.descent import BlockStep


class GridColumns:
    """Columns that are rounded to grids: scale and zero (rows, groups)."""

    most_bits = 8  # of a code, in the native module

    def __init__(self, scale: Tensor, zero: Tensor, bits: int) -> None:
        self.bits = bits
        self.rows = {"scale": _by_row(scale.float()), "zero": _by_row(zero.float())}


class TableColumns:
    """Columns that are rounded to codebooks: centroids (row blocks, column blocks, K), and their codes, called names.

    centroids and names end up as (column blocks, K, rows), row_scale as (rows,).
    """

    most_bits = 4

    def __init__(self, centroids: Tensor, row_scale: Tensor, group_rows: int, names: Tensor | None = None) -> None:
        rows, self.bits = len(row_scale), centroids.shape[-1].bit_length() - 1

        def spread(values: Tensor) -> Tensor:
            return values.permute(1, 2, 0).repeat_interleave(group_rows, 2)[..., :rows].contiguous()

        self.rows = {"centroids": spread(centroids), "row_scale": row_scale.flatten().contiguous()}
        if names is not None:
            self.rows["names"] = spread(names.to(torch.uint8))


Columns = GridColumns | TableColumns


def feed_back(columns: Columns, block: Tensor, U: Tensor, table: list[int]) -> tuple[Tensor, Tensor] | None:
    """block (columns, rows) of corrected weights, U of these columns, table: the group or column block of each column
    -> codes uint8 and error / U_qq, both (columns, rows); or None."""
    codes = torch.empty(block.shape, dtype=torch.uint8)
    errors = _round(False, columns, block, U, table, codes)
    return None if errors is None else (codes, errors)


def descend_columns(columns: Columns, G: Tensor, H: Tensor, table: list[int], codes: Tensor) -> Tensor | None:
    """G (columns, rows) and codes uint8, both changed in place, H of these columns -> the change of the values (columns, rows), or
    None."""
    return _round(True, columns, G, H, table, codes)


def block_step(columns: Columns, table_width: int) -> BlockStep:
    """descend_columns as shared/descent.py calls it, where every `table_width` columns share a table."""

    def change(block: slice, G: Tensor, H: Tensor, codes: Tensor) -> Tensor:
        table = [column // table_width for column in range(block.start, block.stop)]
        changes = descend_columns(columns, G, H, table, codes[block])
        assert changes is not None
        return changes

    return change


def _round(descent: bool, columns: Columns, block: Tensor, matrix: Tensor, table: list[int], codes: Tensor) -> Tensor | None:
    if block.device.type != "cpu" or columns.bits > columns.most_bits:
        return None
    arrays = {name: values.numpy() for name, values in columns.rows.items()}
    changes = workshop.round_columns(
        descent,
        columns.bits,
        block.numpy(),
        matrix.contiguous().numpy(),
        np.array(table, np.int32),
        codes.numpy(),
        torch.get_num_threads(),
        **arrays,
    )
    return None if changes is None else torch.from_numpy(changes)


def _by_row(values: Tensor) -> Tensor:
    """(rows, groups) -> (groups, rows)."""
    return values.T.contiguous()
