"""One-dimensional codebooks in torch: row_scale * (centroid - 64)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.models.decoders.base import register


class CodebookDecoder:
    def __init__(self, tensor: CodebookTensor, device: torch.device | str) -> None:
        self._cols, self._group_rows, self._group_cols = tensor.shape[1], tensor.group_rows, tensor.group_cols
        self._codes, self._codebooks = (torch.tensor(array, device=device) for array in (tensor.codes, tensor.codebooks))
        self._row_scale = torch.tensor(tensor.row_scale, device=device).float()

    def decode(self, rows: Tensor) -> Tensor:
        cols = torch.arange(self._cols, device=rows.device)
        centroids = self._codebooks[rows[:, None] // self._group_rows, cols // self._group_cols, self._codes[rows].long()]
        return self._row_scale[rows, None] * (centroids.float() - CENTROID_ZERO)


register(CodebookTensor, CodebookDecoder)
