"""Matrices stored by columns of several widths in torch: (row_scale * table entry) * column scale."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import SectionsTensor
from rwkvquant.models.decoders.base import register


class SectionsDecoder:
    """Keeps the table entries, one byte a weight, as the table of a code depends on its column."""

    def __init__(self, tensor: SectionsTensor, device: torch.device | str) -> None:
        self._numbers = torch.tensor(tensor.numbers, device=device)
        self._row_scale, self._col_scale = (torch.tensor(side, device=device).float() for side in (tensor.row_scale, tensor.col_scale))

    def decode(self, rows: Tensor) -> Tensor:
        return self._row_scale[rows, None] * self._numbers[rows].float() * self._col_scale


register(SectionsTensor, SectionsDecoder)
