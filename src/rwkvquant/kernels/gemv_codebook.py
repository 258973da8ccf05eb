"""y = W x for 1-D codebooks (layouts codebook{2,3,4}.t16x32), int8 activations: the definition of native/product_codebook.cpp.

    W       (rows, cols)   weight, decoded row_scale * (centroid[code] - 64)    (codecs/)
    x       (cols,)        xscale * xq, in activation groups of 64 columns      (activations.py)

    isum[r]  = sum over an activation group of (centroid[code] - 64) * xq      exact, in integers
    y[r]     = y[r] + float(isum[r]) * xscale                                  groups from left to right, from y = 0
    y[r]     = y[r] * row_scale[r]

Every * and + of the last two lines is one float32 operation with its own rounding, never fused. The integers are computed in
float32, where they are exact: |isum| <= 64 * 128 * 64 < 2^24. Compressed codebooks are expanded first, to the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import ACTIVATION_GROUP

CENTROID_ZERO = 64  # centroids are stored in 7 bits, 0..127, so that no kernel's 16-bit products can saturate


def gemv_codebook(
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.uint8],
    row_scale: NDArray[np.float16],
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    out: NDArray[np.float32],
    bits: int = tiles.CODEBOOK_BITS,
    group_rows: int = tiles.CODEBOOK_ROWS,
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed (tiles.py), and may be padded at their ends."""
    weight = whole_numbers(codes, codebooks, rows, cols, bits, group_rows)
    out[:] = centroid_product(weight, row_scale, xq, xscale)


def whole_numbers(
    codes: NDArray[np.uint8], codebooks: NDArray[np.uint8], rows: int, cols: int, bits: int, group_rows: int
) -> NDArray[np.float32]:
    """centroid - 64 (rows, cols)."""
    code = tiles.unpack_tiles(codes, rows, cols, bits, tiles.CODEBOOK_COLS)
    tables = tiles.unpack_codebooks(codebooks, rows, cols, group_rows, 2**bits)
    row_group = np.arange(rows)[:, None] // group_rows
    column_tile = np.arange(cols)[None, :] // tiles.CODEBOOK_COLS
    return tables[row_group, column_tile, code].astype(np.float32) - CENTROID_ZERO


def centroid_product(
    weight: NDArray[np.float32], row_scale: NDArray[np.float16], xq: NDArray[np.int8], xscale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """y (rows,) from weight (rows, cols), centroid - 64: the common part of codebooks of single weights and of pairs."""
    rows, cols = weight.shape
    y = np.zeros(rows, np.float32)
    for a, first in enumerate(range(0, cols, ACTIVATION_GROUP)):
        group = slice(first, min(first + ACTIVATION_GROUP, cols))
        isum = weight[:, group] @ xq[group].astype(np.float32)
        y += isum * xscale[a]
    return y * row_scale[:rows].astype(np.float32)


def expand_codebooks(
    coefficients: NDArray[np.int8],
    basis: NDArray[np.int8],
    shift: int,
    rows: int,
    cols: int,
    bits: int,
    group_rows: int,
    rank: int,
) -> NDArray[np.uint8]:
    """Packed coefficients and basis -> packed codebooks of the whole matrix, as `gemv_codebook` takes them.

        centroid_k = clamp((sum_r coefficient_r * basis_rk + half) >> shift, -64, 63) + 64        half = 2**(shift-1), or 0 for shift 0

    in 32-bit integers; >> rounds down. The tables keep their order, so nothing needs to be transposed.
    """
    entries = 2**bits
    factors = coefficients[: tiles.codebook_bytes(rows, cols, group_rows, rank)].reshape(-1, rank).astype(np.int32)
    total = factors @ basis[: rank * entries].reshape(rank, entries).astype(np.int32)
    half = 1 << shift >> 1
    return (np.clip((total + half) >> shift, -CENTROID_ZERO, CENTROID_ZERO - 1) + CENTROID_ZERO).astype(np.uint8).reshape(-1)
