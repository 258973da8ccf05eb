"""The protocol of a decoder, and the decoder of each codec."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from rwkvquant.codecs import QTensor


class Decoder(Protocol):
    """Made from a logical tensor and a device."""

    def decode(self, rows: Tensor) -> Tensor:
        """rows (n,) int64 -> those rows, (n, cols) float32."""
        ...


class Decoded:
    """The decoded weights, for codecs that have no decoder. Needs 4 bytes a weight."""

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
