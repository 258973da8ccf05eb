"""y = W x for matrices stored by columns of several widths (layout sections.r512): each width is one section, stored as in columnwise.

    W        (rows, cols)   weight, decoded row_scale[r] * table_w[code[r, c]] * col_scale[c]      w = widths[c], bits of a code
    x        (cols,)        float32, never negative and mostly zero: a squared ReLU

A section has all columns of one width, from left to right, in chunks (chunks.py). All sections share the scales of rows, so their whole
sums are added before the scales come in. The product is that of gemv_columnwise.py, whatever the order of the columns:

    H[r]    = sum over c of table_w[code[r, c]] * (q[c] >> 8)       L[r] the same with q[c] & 255
    y[r]    = ((float(H[r]) * 256 + float(L[r])) * scale) * row_scale[r]

Codes of 2, 3 and 4 bits have a table each. Codes of 6 bits are evenly spaced: table_6[code] = code - 32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import chunks
from rwkvquant.kernels.gemv_columnwise import quantize_columns

Array = NDArray[np.float32]
WIDTHS = (2, 3, 4, 6)
TABLED = (2, 3, 4)
TABLE_ENTRIES = sum(1 << width for width in TABLED)
MIDDLE = 32  # of codes of 6 bits


def table_of(tables: NDArray[np.int8], width: int) -> NDArray[np.int8]:
    """The numbers that codes of this width stand for. tables (>= TABLE_ENTRIES,): those of 2, 3 and 4 bits, one after another."""
    if width not in TABLED:
        return np.arange(-MIDDLE, MIDDLE, dtype=np.int8)
    start = sum(1 << narrower for narrower in TABLED if narrower < width)
    return tables[start : start + (1 << width)]


def sections(widths: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """widths (cols,) -> (width, its columns) for each width, also for those without columns."""
    for width in WIDTHS:
        yield width, np.flatnonzero(widths == width)


def packed_bytes(rows: int, counts: dict[int, int]) -> int:
    """Bytes of the codes of a matrix with so many columns of each width."""
    return sum(chunks.packed_bytes(rows, count, width) for width, count in counts.items())


def pack_sections(codes: NDArray[np.uint8], widths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """codes (rows, cols) -> (packed_bytes,) uint8, section after section."""
    parts = [chunks.pack_chunks(np.ascontiguousarray(codes[:, columns]), width) for width, columns in sections(widths) if len(columns)]
    return np.concatenate(parts)


def unpack_sections(packed: NDArray[np.uint8], rows: int, widths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(>= packed_bytes,) uint8 -> (rows, cols) codes, in the order of the columns of the matrix."""
    codes, start = np.empty((rows, len(widths)), np.uint8), 0
    for width, columns in sections(widths):
        if len(columns):
            codes[:, columns] = chunks.unpack_chunks(packed[start:], rows, len(columns), width)
        start += chunks.packed_bytes(rows, len(columns), width)
    return codes


def whole_numbers(codes: NDArray[np.uint8], tables: NDArray[np.int8], widths: NDArray[np.uint8]) -> NDArray[np.int8]:
    """table_w[code] (rows, cols)."""
    numbers = np.empty(codes.shape, np.int8)
    for width, columns in sections(widths):
        numbers[:, columns] = table_of(tables, width)[codes[:, columns]]
    return numbers


def gemv_sections(
    numbers: NDArray[np.int8], row_scale: NDArray[np.float16], col_scale: NDArray[np.float16], x: Array, out: Array, int8: bool
) -> None:
    """numbers (rows, cols); writes out (rows,) float32. int8 False: activations stay float32, sums are from left to right."""
    rows, cols = numbers.shape
    with np.errstate(invalid="ignore", over="ignore"):
        if int8:
            q, scale = quantize_columns(x, col_scale)
            active = np.flatnonzero(q)
            weights = numbers[:, active].astype(np.float64)  # whole numbers below 2^53 are exact
            high, low = weights @ (q[active] >> 8), weights @ (q[active] & 255)
            sums = (high.astype(np.float32) * np.float32(256) + low.astype(np.float32)) * scale
        else:
            scaled, sums = x * col_scale[:cols].astype(np.float32), np.zeros(rows, np.float32)
            for column in np.flatnonzero(scaled):
                sums += numbers[:, column].astype(np.float32) * scaled[column]
        out[:] = sums * row_scale[:rows].astype(np.float32)
