"""y = W x for matrices stored by columns of several widths (layout sections.r512): each width is one section, stored as in columnwise.

    W        (rows, cols)   weight, decoded row_scale[r] * table_w[code[r, c]] * col_scale[c]      w = widths[c], bits of a code
    x        (cols,)        float32, never negative and mostly zero: a squared ReLU

A section has all columns of one width, from left to right, in chunks (chunks.py). Codes of 2, 3 and 4 bits have a table each. Codes of 6
bits are evenly spaced, table_6[code] = code - 32, and are stored as two sections, as this is a sum of two tables:

    code - 32 = low_table[code & 15] + high_table[code >> 4]        low_table = 0..15, of 4 bits    high_table = -32, -16, 0, 16, of 2 bits

So a kernel for columns of 2, 3 and 4 bits is enough. All sections share the scales of rows, so their whole sums are added before the
scales come in. The product is that of gemv_columnwise.py, whatever the order of the columns:

    H[r]    = sum over c of table_w[code[r, c]] * (q[c] >> 8)       L[r] the same with q[c] & 255
    y[r]    = ((float(H[r]) * 256 + float(L[r])) * scale) * row_scale[r]

With float32 activations the order counts: section after section as they are stored, each from left to right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import chunks
from rwkvquant.kernels.gemv_columnwise import product_of, quantize_columns

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]
WIDTHS = (2, 3, 4, 6)
TABLED = (2, 3, 4)
TABLE_ENTRIES = sum(1 << width for width in TABLED)
MIDDLE = 32  # of codes of 6 bits


class Section(NamedTuple):
    """Columns that are stored like a matrix of the codec columnwise: `bits` of their codes of `width` bits, from bit `shift` on."""

    width: int
    bits: int
    shift: int = 0


SECTIONS = (Section(2, 2), Section(3, 3), Section(4, 4), Section(6, 4), Section(6, 2, 4))


def table_of(tables: NDArray[np.int8], width: int) -> NDArray[np.int8]:
    """The numbers that codes of this width stand for. tables (>= TABLE_ENTRIES,): those of 2, 3 and 4 bits, one after another."""
    if width not in TABLED:
        return np.arange(-MIDDLE, MIDDLE, dtype=np.int8)
    start = sum(1 << narrower for narrower in TABLED if narrower < width)
    return tables[start : start + (1 << width)]


def section_table(tables: NDArray[np.int8], section: Section) -> NDArray[np.int8]:
    """The numbers that the section's part of a code stands for."""
    if section.width in TABLED:
        return table_of(tables, section.width)
    return ((np.arange(1 << section.bits) << section.shift) - (MIDDLE if section.shift else 0)).astype(np.int8)


def packed_bytes(rows: int, counts: dict[int, int]) -> int:
    """Bytes of the codes of a matrix with so many columns of each width."""
    return sum(chunks.packed_bytes(rows, counts[section.width], section.bits) for section in SECTIONS)


def pack_sections(codes: Bytes, widths: Bytes) -> Bytes:
    """codes (rows, cols) -> (packed_bytes,) uint8, section after section."""
    return np.concatenate(
        [
            chunks.pack_chunks(np.ascontiguousarray(codes[:, columns] >> section.shift & (1 << section.bits) - 1), section.bits)
            for section, columns in _columns(widths)
        ]
    )


def unpack_sections(packed: Bytes, rows: int, widths: Bytes) -> Bytes:
    """(>= packed_bytes,) uint8 -> (rows, cols) codes, in the order of the columns of the matrix."""
    codes, start = np.zeros((rows, len(widths)), np.uint8), 0
    for section, columns in _columns(widths):
        codes[:, columns] |= chunks.unpack_chunks(packed[start:], rows, len(columns), section.bits) << section.shift
        start += chunks.packed_bytes(rows, len(columns), section.bits)
    return codes


def whole_numbers(codes: Bytes, tables: NDArray[np.int8], widths: Bytes) -> NDArray[np.int8]:
    """table_w[code] (rows, cols)."""
    numbers = np.empty(codes.shape, np.int8)
    for width in WIDTHS:
        columns = widths == width
        numbers[:, columns] = table_of(tables, width)[codes[:, columns]]
    return numbers


def gemv_sections(
    codes: Bytes,
    widths: Bytes,
    tables: NDArray[np.int8],
    row_scale: NDArray[np.float16],
    col_scale: NDArray[np.float16],
    x: Array,
    out: Array,
) -> None:
    """codes (rows, cols); writes out (rows,) float32."""
    q, scale = quantize_columns(x, col_scale)
    active = np.flatnonzero(q)
    numbers = whole_numbers(codes[:, active], tables, widths[active]).astype(np.float64)  # whole numbers below 2^53 are exact
    out[:] = product_of(numbers, q[active], scale, row_scale)


def float_sections(
    codes: Bytes,
    widths: Bytes,
    tables: NDArray[np.int8],
    row_scale: NDArray[np.float16],
    col_scale: NDArray[np.float16],
    x: Array,
    out: Array,
) -> None:
    """The same with float32 activations."""
    sums = np.zeros(len(out), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = x * col_scale[: len(x)].astype(np.float32)
        for section, columns in _columns(widths):
            table = section_table(tables, section).astype(np.float32)
            for column in columns[scaled[columns] != 0]:
                sums += table[codes[:, column] >> section.shift & (1 << section.bits) - 1] * scaled[column]
        out[:] = sums * row_scale[: len(out)].astype(np.float32)


def _columns(widths: Bytes) -> Iterator[tuple[Section, NDArray[np.intp]]]:
    """The columns of each section, from left to right."""
    for section in SECTIONS:
        yield section, np.flatnonzero(widths == section.width)
