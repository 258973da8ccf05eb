"""y = W x for 2-D codebooks (layouts pairs{4..8}.t16x32), int8 activations: the definition of native/product_pairs.cpp.

    W       (rows, cols)   weight, decoded row_scale * (component[code] - 64)   (codecs/)
    x       (cols,)        xscale * xq, in activation groups of 64 columns      (activations.py)

A code gives columns 2i and 2i + 1 of a row, components 0 and 1; the second component of an odd last column is not used.
A tile of 32 codes is 64 columns: one activation group.

    isum[r]  = sum over an activation group of (component[code] - 64) * xq     exact, in integers
    y[r]     = y[r] + float(isum[r]) * xscale                                  groups from left to right, from y = 0
    y[r]     = y[r] * row_scale[r]

Every * and + of the last two lines is one float32 operation with its own rounding, never fused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import tiles
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO, centroid_product


def gemv_pairs(
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.uint8],
    row_scale: NDArray[np.float16],
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    out: NDArray[np.float32],
    bits: int,
    group_rows: int,
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed (tiles.py), and may be padded at their ends."""
    out[:] = centroid_product(whole_numbers(codes, codebooks, rows, cols, bits, group_rows), row_scale, xq, xscale)


def whole_numbers(
    codes: NDArray[np.uint8], codebooks: NDArray[np.uint8], rows: int, cols: int, bits: int, group_rows: int
) -> NDArray[np.float32]:
    """component - 64 (rows, cols)."""
    code = tiles.unpack_tiles(codes, rows, -(-cols // 2), bits, tiles.PAIR_TILE)
    tables = tiles.unpack_pair_codebooks(codebooks, rows, group_rows, bits)
    pairs = tables[np.arange(rows)[:, None] // group_rows, code].astype(np.float32) - CENTROID_ZERO  # (rows, codes, 2)
    return pairs.reshape(rows, -1)[:, :cols]
