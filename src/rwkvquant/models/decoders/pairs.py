"""Two-dimensional codebooks in torch: row_scale * (component of the centroid - 64)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, PairCodebookTensor
from rwkvquant.models.decoders.base import register


class PairDecoder:
    def __init__(self, tensor: PairCodebookTensor, device: torch.device | str) -> None:
        self._cols, self._group_rows = tensor.cols, tensor.group_rows
        self._codes, self._codebooks = (torch.tensor(array, device=device) for array in (tensor.codes, tensor.codebooks))
        self._row_scale = torch.tensor(tensor.row_scale, device=device).float()

    def decode(self, rows: Tensor) -> Tensor:
        pairs = self._codebooks[rows[:, None] // self._group_rows, self._codes[rows].long()]  # (rows, pairs, 2)
        centroids = pairs.flatten(1)[:, : self._cols]  # without the second component of an odd last column
        return self._row_scale[rows, None] * (centroids.float() - CENTROID_ZERO)


register(PairCodebookTensor, PairDecoder)
