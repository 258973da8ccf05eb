"""y = W x for matrices stored column by column (layouts columnwise{2,3,4}.r512): the definition of native/product_columnwise.cpp.

    W      (rows, cols)   weight, decoded row_scale[r] * table[code[r, c]] * col_scale[c]   (codecs/)
    x      (cols,)        float32, never negative and mostly zero: a squared ReLU

Columns whose activation is zero are not read. Activations are rounded to 16 bits, because the order of the sums then does not matter:

    x'[c]   = x[c] * col_scale[c]                          0 where it is below 0
    scale   = max of x' / 65535                            one for the whole vector
    q[c]    = x'[c] / scale, rounded                       0..65535; halves to even; 0 where it is not finite
    H[r]    = sum over c of table[code[r, c]] * (q[c] >> 8)        exact, in integers: |table| <= 64 and at most 2^17 columns
    L[r]    = sum over c of table[code[r, c]] * (q[c] & 255)
    y[r]    = ((float(H[r]) * 256 + float(L[r])) * scale) * row_scale[r]

With float32 activations, the reference for the above, the sums are in one order, and x may be negative:

    y[r]    = (sum of table[code[r, c]] * x'[c] over all columns from left to right, from 0) * row_scale[r]

Every * and + of floats is one float32 operation with its own rounding, never fused. A NaN or an infinity among the activations makes the
scale, and so the whole product, NaN or infinite. Gives up: activations below 1/131070 of the largest one count as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import chunks

Array = NDArray[np.float32]
LARGEST_ENTRY = 64  # of a table, with either sign
MAX_COLS = 1 << 17  # 2^17 * 64 * 255 is below 2^31
LARGEST = np.float32(65535)


def quantize_columns(x: Array, col_scale: NDArray[np.float16]) -> tuple[NDArray[np.uint16], np.float32]:
    """x (cols,), col_scale (>= cols,) -> q (cols,) and its scale."""
    with np.errstate(all="ignore"):  # products that overflow, 0 / 0 for a vector of zeros, and values that are not finite
        scaled = x * col_scale[: len(x)].astype(np.float32)
        scaled = np.where(scaled <= 0, np.float32(0), scaled)
        scale = np.float32(scaled.max(initial=0)) / LARGEST
        steps = np.rint(scaled / scale)
        # A subnormal scale is too coarse for its own maximum, as in activations.py.
        steps = np.minimum(np.nan_to_num(steps, nan=0.0, posinf=0.0), LARGEST)
    return steps.astype(np.uint16), scale


def gemv_columnwise(
    codes: NDArray[np.uint8],
    table: NDArray[np.int8],
    row_scale: NDArray[np.float16],
    col_scale: NDArray[np.float16],
    x: Array,
    rows: int,
    out: Array,
    bits: int,
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed (chunks.py), and may be padded at their ends."""
    q, scale = quantize_columns(x, col_scale)
    active = np.flatnonzero(q)
    number = whole_numbers(codes, table, rows, len(x), bits)[:, active].astype(np.float64)  # whole numbers below 2^53 are exact
    out[:] = product_of(number, q[active], scale, row_scale)


def product_of(number: NDArray[np.float64], q: NDArray[np.uint16], scale: np.float32, row_scale: NDArray[np.float16]) -> Array:
    """number (rows, active columns), table[code] of these columns; q of the same columns -> y (rows,)."""
    high, low = number @ (q >> 8), number @ (q & 255)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = high.astype(np.float32) * np.float32(256) + low.astype(np.float32)
        product: Array = (whole * scale) * row_scale[: len(number)].astype(np.float32)
    return product


def float_columnwise(
    codes: NDArray[np.uint8],
    table: NDArray[np.int8],
    row_scale: NDArray[np.float16],
    col_scale: NDArray[np.float16],
    x: Array,
    rows: int,
    out: Array,
    bits: int,
) -> None:
    """The same with float32 activations."""
    number = whole_numbers(codes, table, rows, len(x), bits)
    sums = np.zeros(rows, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * col_scale[: len(x)].astype(np.float32)
        for column in np.flatnonzero(scaled):
            sums += number[:, column].astype(np.float32) * scaled[column]
        out[:] = sums * row_scale[:rows].astype(np.float32)


def whole_numbers(codes: NDArray[np.uint8], table: NDArray[np.int8], rows: int, cols: int, bits: int) -> NDArray[np.int8]:
    """table[code] (rows, cols)."""
    return table[: 1 << bits][chunks.unpack_chunks(codes, rows, cols, bits)]
