"""Uniform grids in torch: scale * (code - zero)."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import UniformTensor
from rwkvquant.models.decoders.base import register


class UniformDecoder:
    def __init__(self, tensor: UniformTensor, device: torch.device | str) -> None:
        self._cols, self._group_size = tensor.shape[1], tensor.group_size
        self._codes = torch.tensor(tensor.codes, device=device)
        self._scales, self._zeros = (torch.tensor(side, device=device) for side in (tensor.group_scales(), tensor.group_zeros()))

    def decode(self, rows: Tensor) -> Tensor:
        def by_column(groups: Tensor) -> Tensor:  # (rows, groups) -> (rows, cols); the last group may be short
            return groups[rows].repeat_interleave(self._group_size, dim=1)[:, : self._cols]

        return by_column(self._scales) * (self._codes[rows] - by_column(self._zeros))


register(UniformTensor, UniformDecoder)
