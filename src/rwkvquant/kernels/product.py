"""out = x W^T for every codec and any number of vectors: the common part of the definitions of native/product_*.cpp.

    W      (rows, cols)    a packed matrix
    x      (count, cols)   float32
    out    (count, rows)   float32; a vector's result has the same bits alone and among others

With int8 activations (the usual way), each vector is quantised (activations.py) and multiplied as gemv_uniform.py,
gemv_codebook.py and gemv_pairs.py say. With float32 activations, the reference for int8, every piece of columns (inside one
weight group and one activation group) is

    s[k][r]  = sum of number * x         over the piece's columns 4j + k, from left to right, from 0; number = code - zero
    y[r]     = y[r] + ((s[0] + s[1]) + (s[2] + s[3])) * scale[r]        scale 1 for codebooks
    y[r]     = y[r] * row_scale[r]                                      at the end, where there is one

Dense values always have float32 activations, and 64 sums for each row,

    s[l]     = sum of W[r, c] * x[c]     over columns 64j + l, from left to right, from 0
    y[r]     = s summed by halves: s[l] + s[l + 32] for l below 32, then + 16, + 8, + 4, + 2, + 1

Every * and + is one float32 operation with its own rounding. A matrix's codec (codecs/) says which product it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.activations import ACTIVATION_GROUP, quantize_activations
from rwkvquant.kernels.gemv_uniform import pieces

Array = NDArray[np.float32]
DENSE_SUMS = 64


def int8_product(gemv: Callable[[NDArray[np.int8], Array, Array], None], x: Array, rows: int) -> Array:
    """`gemv(xq, xscale, y)` writes y (rows,) for one vector; x (count, cols) -> (count, rows)."""
    out = np.empty((len(x), rows), np.float32)
    for vector, y in zip(x, out, strict=True):
        gemv(*quantize_activations(vector), y)
    return out


def float_product(number: Array, scale: Array | None, row_scale: NDArray[np.float16] | None, group_size: int, x: Array) -> Array:
    """number (rows, cols) whole numbers, scale (rows, groups) or None for ones, row_scale (>= rows,) or None."""
    rows, cols = number.shape
    size = group_size or ACTIVATION_GROUP
    out = np.zeros((len(x), rows), np.float32)
    for vector, y in zip(x, out, strict=True):
        for first, stop in pieces(cols, size):
            sums = np.zeros((4, rows), np.float32)
            for column in range(first, stop):
                sums[column % 4] += number[:, column] * vector[column]
            y += ((sums[0] + sums[1]) + (sums[2] + sums[3])) * (np.float32(1) if scale is None else scale[:, first // size])
        if row_scale is not None:
            y *= row_scale[:rows].astype(np.float32)
    return out


def dense_product(W: NDArray[Any], x: Array) -> Array:
    """W (rows, cols) of any float type, x (count, cols) -> (count, rows)."""
    out = np.empty((len(x), len(W)), np.float32)
    for vector, y in zip(x, out, strict=True):
        sums = np.zeros((len(W), DENSE_SUMS), np.float32)
        for first in range(0, W.shape[1], DENSE_SUMS):
            columns = slice(first, min(first + DENSE_SUMS, W.shape[1]))
            part = W[:, columns].astype(np.float32) * vector[columns]
            sums[:, : part.shape[1]] += part
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        y[:] = sums[:, 0]
    return out
