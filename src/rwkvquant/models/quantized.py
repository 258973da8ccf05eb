"""Products with weights that are dense or quantised, in torch.

A QuantizedMatrix keeps the codes of a logical tensor (codecs/) and decodes them for each product (decoders/), to exactly the float32
values of the tensor's `decode`, with the transform of its input undone. Gives up: speed. A product decodes the whole matrix, so this suits
many tokens at once.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.codecs import QTensor
from rwkvquant.models.decoders import decoder_of
from rwkvquant.transforms import NONE, Applied


class QuantizedMatrix:
    """A (rows, cols) matrix as codes, on any torch device. `transform`: what the codes are for, T x instead of x."""

    def __init__(self, tensor: QTensor, device: torch.device | str = "cpu", transform: Applied = NONE) -> None:
        self.shape, self._transform = tensor.shape, transform
        self._device, self._decoder = torch.device(device), decoder_of(tensor, device)

    def decode(self, rows: Tensor | None = None) -> Tensor:
        """(rows, cols) float32 for x itself, or only the chosen rows, (len(rows), cols)."""
        if rows is None:
            rows = torch.arange(self.shape[0], device=self._device)
        W = self._decoder.decode(rows)
        return W if self._transform.name == "none" else torch.from_numpy(self._transform.undone(W.cpu().numpy())).to(W.device)

    def product(self, x: Tensor) -> Tensor:
        """x (..., cols) -> (..., rows)."""
        return functional.linear(x, self.decode())


class Product(Protocol):
    """A matrix in a forward that is not a Tensor: an object with a product."""

    def product(self, x: Tensor) -> Tensor: ...


def linear(x: Tensor, W: Tensor | Product) -> Tensor:
    """x (..., in), W (out, in) -> x W^T (..., out)."""
    return functional.linear(x, W) if isinstance(W, Tensor) else W.product(x)


def rows(W: Tensor | QuantizedMatrix, indices: Tensor) -> Tensor:
    """W (V, C), indices (...) int64 -> those rows of W, (..., C). Of a quantised matrix only these rows are decoded."""
    if isinstance(W, QuantizedMatrix):
        return W.decode(indices.flatten()).view(*indices.shape, -1)
    return functional.embedding(indices, W)
