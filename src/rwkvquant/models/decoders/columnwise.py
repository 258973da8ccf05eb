"""Matrices stored by columns in torch: (row_scale * table entry) * column scale."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import ColumnwiseTensor
from rwkvquant.models.decoders.base import register


class ColumnwiseDecoder:
    def __init__(self, tensor: ColumnwiseTensor, device: torch.device | str) -> None:
        self._codes = torch.tensor(tensor.codes, device=device)
        sides = (tensor.table, tensor.row_scale, tensor.col_scale)
        self._table, self._row_scale, self._col_scale = (torch.tensor(side, device=device).float() for side in sides)

    def decode(self, rows: Tensor) -> Tensor:
        return self._row_scale[rows, None] * self._table[self._codes[rows].long()] * self._col_scale


register(ColumnwiseTensor, ColumnwiseDecoder)
