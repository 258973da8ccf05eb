"""Products with weights that are dense or quantised, in torch.

A QuantizedMatrix keeps the codes of a codecs/ tensor and decodes them for each product, to the very float32 that
`QTensor.decode` defines. Gives up: speed; a product decodes the whole matrix, so this suits many tokens at once.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor, PairCodebookTensor, UniformTensor


class QuantizedMatrix:
    """A (rows, cols) matrix as codes, on any torch device."""

    def __init__(self, tensor: UniformTensor | CodebookTensor | PairCodebookTensor, device: torch.device | str = "cpu") -> None:
        def to_torch(array: Any) -> Tensor:
            return torch.tensor(array, device=device)

        self.shape = tensor.shape
        self.codes = to_torch(tensor.codes)
        self._kind = type(tensor)
        if isinstance(tensor, UniformTensor):
            self._group_size = tensor.group_size
            self._scales, self._zeros = to_torch(tensor.group_scales()), to_torch(tensor.group_zeros())
            return
        self._group_rows = tensor.group_rows
        self._codebooks, self._row_scale = to_torch(tensor.codebooks), to_torch(tensor.row_scale).float()
        if isinstance(tensor, CodebookTensor):
            self._group_cols = tensor.group_cols

    def decode(self, rows: Tensor | None = None) -> Tensor:
        """(rows, cols) float32, or only the chosen rows, (len(rows), cols)."""
        if rows is None:
            rows = torch.arange(self.shape[0], device=self.codes.device)
        if self._kind is UniformTensor:
            return self._decode_uniform(rows)
        return self._decode_codebook(rows) if self._kind is CodebookTensor else self._decode_pairs(rows)

    def _decode_uniform(self, rows: Tensor) -> Tensor:
        def by_column(groups: Tensor) -> Tensor:  # (rows, groups) -> (rows, cols); the last group may be short
            return groups[rows].repeat_interleave(self._group_size, dim=1)[:, : self.shape[1]]

        return by_column(self._scales) * (self.codes[rows] - by_column(self._zeros))

    def _decode_codebook(self, rows: Tensor) -> Tensor:
        cols = torch.arange(self.shape[1], device=self.codes.device)
        centroids = self._codebooks[rows[:, None] // self._group_rows, cols // self._group_cols, self.codes[rows].long()]
        return self._row_scale[rows, None] * (centroids.float() - CENTROID_ZERO)

    def _decode_pairs(self, rows: Tensor) -> Tensor:
        pairs = self._codebooks[rows[:, None] // self._group_rows, self.codes[rows].long()]  # (rows, pairs, 2)
        centroids = pairs.flatten(1)[:, : self.shape[1]]  # an odd last column stands alone
        return self._row_scale[rows, None] * (centroids.float() - CENTROID_ZERO)

    def product(self, x: Tensor) -> Tensor:
        """x (..., cols) -> (..., rows)."""
        return functional.linear(x, self.decode())


class Product(Protocol):
    """What stands for a matrix in a forward: anything that can multiply with it."""

    def product(self, x: Tensor) -> Tensor: ...


def linear(x: Tensor, W: Tensor | Product) -> Tensor:
    """x (..., in), W (out, in) -> x W^T (..., out)."""
    return functional.linear(x, W) if isinstance(W, Tensor) else W.product(x)


def rows(W: Tensor | QuantizedMatrix, indices: Tensor) -> Tensor:
    """W (V, C), indices (...) int64 -> those rows of it, (..., C); of a quantised matrix no others are decoded."""
    if isinstance(W, QuantizedMatrix):
        return W.decode(indices.flatten()).view(*indices.shape, -1)
    return functional.embedding(indices, W)
