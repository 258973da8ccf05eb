"""What a decoder is, and which codec has which."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from rwkvquant.codecs import QTensor


class Decoder(Protocol):
    """Made of a logical tensor and a device."""

    def decode(self, rows: Tensor) -> Tensor:
        """rows (n,) int64 -> those rows, (n, cols) float32."""
        ...


class Decoded:
    """The weights themselves: for codecs that have no decoder. Costs 4 bytes a weight."""

    def __init__(self, tensor: QTensor, device: torch.device | str) -> None:
        self._values = torch.tensor(tensor.decode(), device=device)

    def decode(self, rows: Tensor) -> Tensor:
        return self._values[rows]


_DECODERS: dict[type, type[Any]] = {}


def register(tensor: type, decoder: type[Any]) -> None:
    """`decoder(tensor, device)` decodes logical tensors of this class."""
    _DECODERS[tensor] = decoder


def decoder_of(tensor: QTensor, device: torch.device | str) -> Decoder:
    decoder: Decoder = _DECODERS.get(type(tensor), Decoded)(tensor, device)
    return decoder
