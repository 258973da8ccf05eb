"""A matrix stored by columns while it is being quantised.

decoded  Q_rc = s_r d_c t_w(c)[code_rc]       s (rows,)  row scales       d (cols,)  column scales       t_w  table of width w
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import ColumnwiseTensor, SectionsTensor
from rwkvquant.kernels.gemv_sections import TABLE_ENTRIES, TABLED, table_of
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF


@dataclass
class State:
    """Scales hold float16 values, tables ascending whole numbers, all in the type that the matrix is quantised in.

    widths (cols,) int64; tables by width; codes (cols, rows) uint8, so that the codes of a column are side by side.
    """

    widths: Tensor
    tables: dict[int, Tensor]
    row_scale: Tensor
    col_scale: Tensor
    codes: Tensor

    def decode(self) -> Tensor:
        """Q, column first: (cols, rows)."""
        Q = torch.empty(self.codes.shape, dtype=self.row_scale.dtype, device=self.row_scale.device)
        for width, table in self.tables.items():
            of_width = self.widths == width
            Q[of_width] = table[self.codes[of_width].long()]
        return Q.mul_(self.row_scale).mul_(self.col_scale[:, None])

    def columnwise(self) -> ColumnwiseTensor:
        """The logical tensor, if all columns have one width."""
        (table,) = self.tables.values()
        return ColumnwiseTensor(_codes(self), _bytes(table, np.int8), *_scales(self))

    def sections(self) -> SectionsTensor:
        tables = np.zeros(TABLE_ENTRIES, np.int8)
        for width in self.tables.keys() & set(TABLED):
            table_of(tables, width)[:] = _bytes(self.tables[width], np.int8)
        return SectionsTensor(_codes(self), _bytes(self.widths, np.uint8), tables, *_scales(self))


def _codes(state: State) -> NDArray[np.uint8]:
    return _bytes(state.codes.T.contiguous(), np.uint8)


def _scales(state: State) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    return _bytes(state.row_scale, np.float16), _bytes(state.col_scale, np.float16)


def _bytes(values: Tensor, dtype: Any) -> NDArray[Any]:
    return values.cpu().numpy().astype(dtype)


def as_half(scale: Tensor) -> Tensor:
    """The nearest scales that a file can hold, above 0."""
    return scale.clamp(SMALLEST_HALF, LARGEST_HALF).half().to(scale)
