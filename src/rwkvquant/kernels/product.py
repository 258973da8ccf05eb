"""out = x W^T for every layout and any number of vectors: the definition of native/product_*.cpp.

    W      (rows, cols)    a packed matrix
    x      (count, cols)   float32
    out    (count, rows)   float32; each vector gets the same bits alone or beside others

With int8 activations (the usual way), each vector is quantised (activations.py) and multiplied as gemv_uniform.py,
gemv_codebook.py and gemv_pairs.py say. With float32 activations, the judge of the other way, every piece of columns (inside one
weight group and one activation group) is

    s[k][r]  = sum of number * x         over the piece's columns 4j + k, from left to right, from 0; number = code - zero
    y[r]     = y[r] + ((s[0] + s[1]) + (s[2] + s[3])) * scale[r]        scale 1 for codebooks
    y[r]     = y[r] * row_scale[r]                                      in the end, where there is one

Dense values have float32 activations always, and 64 sums a row,

    s[l]     = sum of W[r, c] * x[c]     over columns 64j + l, from left to right, from 0
    y[r]     = s summed by halves: s[l] + s[l + 32] for l below 32, then + 16, + 8, + 4, + 2, + 1

Every * and + is one float32 operation, rounded on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import gemv_codebook, gemv_pairs, gemv_uniform
from rwkvquant.kernels.activations import ACTIVATION_GROUP, quantize_activations
from rwkvquant.kernels.bfloat import widen_bfloat
from rwkvquant.kernels.gemv_uniform import pieces

Array = NDArray[np.float32]
DENSE_SUMS = 64


@dataclass(frozen=True)
class Matrix:
    """A packed matrix: what the native one (native/codec.h) is told.

    codec: uniform | codebook | pairs | dense | bfloat, which is bfloat16 as uint16. bits: of a code, or of a value. arrays: by
    suffix, flat, as the file has them (formats/layout.py); what a codec has no use for keeps its default.
    """

    codec: str
    arrays: Mapping[str, NDArray[Any]]
    rows: int
    cols: int
    bits: int
    tile_cols: int = 32
    group_size: int = 0
    symmetric: bool = False
    scale_bits: int = 0
    group_rows: int = 0
    rank: int = 0
    shift: int = 0


def product(matrix: Matrix, x: Array, int8: bool = True) -> Array:
    """x (count, cols) -> (count, rows)."""
    assert x.dtype == np.float32 and x.shape[1] == matrix.cols
    if matrix.codec in ("dense", "bfloat"):
        values = matrix.arrays["values"][: matrix.rows * matrix.cols].reshape(matrix.rows, matrix.cols)
        return dense_product(widen_bfloat(values) if matrix.codec == "bfloat" else values, x)
    if not int8:
        return np.stack([_float32(matrix, vector) for vector in x])
    out = np.empty((len(x), matrix.rows), np.float32)
    for vector, y in zip(x, out, strict=True):
        _int8(matrix, vector, y)
    return out


def _int8(matrix: Matrix, x: Array, y: Array) -> None:
    xq, xscale = quantize_activations(x)
    arrays, size = matrix.arrays, (matrix.rows, matrix.cols)
    if matrix.codec == "uniform":
        grid = (arrays["scales"], arrays.get("row_scale"), arrays.get("zeros"))
        gemv_uniform.gemv_uniform(arrays["codes"], *grid, xq, xscale, *size, matrix.group_size, y, matrix.bits, matrix.tile_cols)
        return
    multiply = gemv_codebook.gemv_codebook if matrix.codec == "codebook" else gemv_pairs.gemv_pairs
    multiply(arrays["codes"], _codebooks(matrix), arrays["row_scale"], xq, xscale, *size, y, matrix.bits, matrix.group_rows)


def _float32(matrix: Matrix, x: Array) -> Array:
    number, scale = _numbers(matrix)
    group_size = matrix.group_size or ACTIVATION_GROUP
    y = np.zeros(matrix.rows, np.float32)
    for first, stop in gemv_uniform.pieces(matrix.cols, group_size):
        sums = np.zeros((4, matrix.rows), np.float32)
        for column in range(first, stop):
            sums[column % 4] += number[:, column] * x[column]
        y += ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale[:, first // group_size]
    row_scale = matrix.arrays.get("row_scale")
    return y if row_scale is None else y * row_scale[: matrix.rows].astype(np.float32)


def _numbers(matrix: Matrix) -> tuple[Array, Array]:
    """The whole numbers (rows, cols) behind the weights, and their scales (rows, groups); row_scale comes later."""
    arrays, size = matrix.arrays, (matrix.rows, matrix.cols)
    if matrix.codec == "uniform":
        zeros = arrays.get("zeros")
        return gemv_uniform.whole_numbers(arrays["codes"], arrays["scales"], zeros, *size, matrix.group_size, matrix.bits, matrix.tile_cols)
    numbers = gemv_codebook.whole_numbers if matrix.codec == "codebook" else gemv_pairs.whole_numbers
    ones = np.ones((matrix.rows, -(-matrix.cols // ACTIVATION_GROUP)), np.float32)
    return numbers(arrays["codes"], _codebooks(matrix), *size, matrix.bits, matrix.group_rows), ones


def _codebooks(matrix: Matrix) -> NDArray[np.uint8]:
    if matrix.rank == 0:
        return matrix.arrays["codebooks"]
    factors = (matrix.arrays["coefficients"], matrix.arrays["basis"], matrix.shift)
    return gemv_codebook.expand_codebooks(*factors, matrix.rows, matrix.cols, matrix.bits, matrix.group_rows, matrix.rank)


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
