"""Rows of numbers in few bits: how a quantised cache of keys and values is stored. The definition; models/ has the same in torch.

    x      (T, C)  T tokens, C channels                G  a group of channels (or of tokens), quantised together
    codes  b-bit numbers; per group a step and the lowest value, float16

    half = clip (max - min) / 2,  low = (max + min) / 2 - half,  step = 2 half / (2^b - 1)          over a group
    code = round((x - low) / step), 0 to 2^b - 1          x^ = low + step code

A code is stored as bits in b planes: plane p of a row has bit p of all codes, 8 in a byte. So 3 bits take 3 bits. A row takes
C b / 8 + 4 C / G bytes, which is b + 32 / G bits a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.functions import Array

Codes = NDArray[np.uint8]
HALF = np.finfo(np.float16)


def quantize_rows(x: Array, bits: int, group: int, clip: float = 1.0) -> tuple[Codes, Array, Array]:
    """x (T, C), in groups of `group` channels of one token -> codes (T, C), low and step (T, C / group) float16."""
    parts = x.reshape(len(x), -1, group)
    least, most = parts.min(-1), parts.max(-1)
    half = clip * (most - least) / 2
    low = np.clip((most + least) / 2 - half, HALF.min, HALF.max).astype(np.float16)
    step = np.clip(2 * half / (2**bits - 1), HALF.tiny, HALF.max).astype(np.float16)
    codes = np.rint((parts - low.astype(np.float32)[..., None]) / step.astype(np.float32)[..., None])
    return np.clip(codes, 0, 2**bits - 1).astype(np.uint8).reshape(x.shape), low, step


def dequantize_rows(codes: Codes, low: Array, step: Array, group: int) -> Array:
    """The inverse, (T, C) float32."""
    parts = codes.reshape(*low.shape, group).astype(np.float32)
    return (low.astype(np.float32)[..., None] + parts * step.astype(np.float32)[..., None]).reshape(codes.shape)


def to_planes(codes: Codes, bits: int) -> Codes:
    """(T, C) -> (T, bits, C / 8)"""
    return np.stack([np.packbits(codes >> plane & 1, axis=1) for plane in range(bits)], axis=1)


def of_planes(planes: Codes) -> Codes:
    """The inverse."""
    rows, bits, size = planes.shape
    codes = np.zeros((rows, 8 * size), np.uint8)
    for plane in range(bits):
        codes |= np.unpackbits(planes[:, plane], axis=1) << plane
    return codes


class Chunks:
    """Rows of one shape, added at the end. A chunk has room for `rows` rows, so nothing that is there moves when a row is added."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, rows: int = 64) -> None:
        self._shape, self._dtype, self._rows = shape, dtype, rows
        self._chunks: list[NDArray[Any]] = []
        self.length = 0

    def append(self, new: NDArray[Any]) -> None:
        while len(new):
            used = self.length % self._rows
            if used == 0:
                self._chunks.append(np.empty((self._rows, *self._shape), self._dtype))
            part = new[: self._rows - used]
            self._chunks[-1][used : used + len(part)] = part
            self.length += len(part)
            new = new[len(part) :]

    def all(self) -> NDArray[Any]:
        """(length, ...), a new array."""
        if not self._chunks:
            return np.empty((0, *self._shape), self._dtype)
        return np.concatenate(self._chunks)[: self.length]

    @property
    def nbytes(self) -> int:
        """With the rows of the last chunk that are still free."""
        return sum(chunk.nbytes for chunk in self._chunks)
