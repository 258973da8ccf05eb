"""How a layout keeps a tensor that an architecture describes: as it is, transposed, flat, or with others in one array.

A Conversion is two functions of arrays. `read` makes the tensor from the layout's array. `write` makes the array from all tensors that
share it; `order` is the tensor's place among them. `read` can also be used for the shape alone, see `shape_after`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Conversion:
    """`read` raises ValueError or IndexError for an array of an impossible shape."""

    read: Callable[[Array], Array]
    write: Callable[[Sequence[Array]], Array]
    order: int = 0


def shape_after(conversion: Conversion, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what `conversion.read` makes of an array of this shape. Raises the errors of `read`."""
    return conversion.read(np.broadcast_to(np.uint8(0), shape)).shape  # an array of one byte of memory; few conversions copy it


def _flatten(array: Array) -> Array:
    if array.size != max(array.shape):
        raise ValueError("not a vector")
    return array.reshape(-1)


AS_IT_IS = Conversion(lambda a: a, lambda parts: parts[0])
TRANSPOSED = Conversion(lambda a: a.swapaxes(-1, -2), lambda parts: parts[0].swapaxes(-1, -2))
FLAT = Conversion(lambda a: _flatten(a).reshape(1, 1, -1), lambda parts: parts[0].reshape(-1))
VECTOR = Conversion(FLAT.read, AS_IT_IS.write)  # read from (C,), (1, C) or any such shape; written as (1, 1, C)

BY_CHANNEL = Conversion(AS_IT_IS.read, lambda parts: parts[0].reshape(-1))  # (H, N); gguf_file.py, which knows N, makes it from (C,)


def row(order: int, of: int) -> Conversion:
    """One of `of` vectors in an array (of, C), or (of, 1, 1, C)."""

    def read(array: Array) -> Array:
        if len(array) != of:
            raise ValueError(f"not {of} vectors")
        return FLAT.read(array[order])

    return Conversion(read, lambda parts: np.stack([part.reshape(-1) for part in parts]), order)


def stacked(order: int, of: int) -> Conversion:
    """As `row`, and written as (of, 1, 1, C)."""
    one = row(order, of)
    return Conversion(one.read, lambda parts: one.write(parts).reshape(of, 1, 1, -1), order)


# RWKV-6's five token-shift mixes have the order w, k, v, r, g in BlinkDL's checkpoints, and r, w, k, v, g in fla's.
TO_BLINKDL = [1, 2, 3, 0, 4]
TO_FLA = [3, 0, 1, 2, 4]


def _as_matrix(array: Array) -> Array:
    if array.ndim != 2:
        raise ValueError("not a matrix")
    return array


# time_maa_w1, (C, 5*Rm): fla has (5*Rm, C).
MIX_DOWN = Conversion(
    lambda a: _as_matrix(a).reshape(5, -1, a.shape[1])[TO_BLINKDL].reshape(a.shape).T,
    lambda parts: parts[0].T.reshape(5, -1, parts[0].shape[0])[TO_FLA].reshape(parts[0].T.shape),
)
# time_maa_w2, (5, Rm, C): fla has (C, 5*Rm).
MIX_UP = Conversion(
    lambda a: _as_matrix(a).reshape(a.shape[0], 5, -1).transpose(1, 2, 0)[TO_BLINKDL],
    lambda parts: parts[0][TO_FLA].transpose(2, 0, 1).reshape(parts[0].shape[2], -1),
)
