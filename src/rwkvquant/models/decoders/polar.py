"""Directions and magnitudes in torch: row_scale * ((direction * level + 2^14) >> 15)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import PolarTensor
from rwkvquant.kernels.gemv_polar import LEVELS
from rwkvquant.models.decoders.base import register


class PolarDecoder:
    def __init__(self, tensor: PolarTensor, device: torch.device | str) -> None:
        self._cols, self._direction_bits = tensor.cols, tensor.direction_bits
        self._codes = torch.tensor(tensor.codes.astype(np.int32), device=device)
        self._directions = torch.tensor(tensor.codebook, device=device)
        self._levels = torch.tensor(LEVELS[tensor.magnitude_bits], dtype=torch.int32, device=device)
        self._row_scale = torch.tensor(tensor.row_scale, device=device).float()

    def decode(self, rows: Tensor) -> Tensor:
        codes = self._codes[rows]
        direction = self._directions[(codes & (len(self._directions) - 1)).long()].int()  # (rows, codes, 8)
        level = self._levels[(codes >> self._direction_bits).long()]
        numbers = (direction * level[..., None] + (1 << 14)) >> 15
        return self._row_scale[rows, None] * numbers.flatten(1)[:, : self._cols].float()


register(PolarTensor, PolarDecoder)
