"""y = W x for a uniform grid in tiles, int8 activations: the definition of native/product_uniform.cpp.

    W       (rows, cols)   weight, decoded row_scale * scale * (code - zero)    (codecs/)
    x       (cols,)        xscale * xq, in activation groups of 64 columns      (activations.py)

A piece is a run of columns inside one weight group and one activation group: with tiles of 64 columns, one tile.

    isum[r]  = sum over the piece of (code - zero) * xq            exact, in integers
    y[r]     = y[r] + float(isum[r]) * (scale[r] * xscale)         pieces from left to right, from y = 0
    y[r]     = y[r] * row_scale[r]                                 8-bit scales only

Every * and + of the last two lines is one float32 operation with its own rounding, never fused. So every body on every CPU
gives the same bits. Here the integers are computed in float32, where they are exact: |isum| <= 255 * 128 * 64 < 2^24.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import ACTIVATION_GROUP


def gemv_uniform(
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    row_scale: NDArray[np.float16] | None,
    zeros: NDArray[np.uint8] | None,
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    group_size: int,
    out: NDArray[np.float32],
    bits: int = 3,
    tile_cols: int = 64,
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed (tiles.py), and may be padded at their ends.

    `scales` are uint8 where `row_scale` is given, else float16; `zeros` None is a symmetric grid.
    """
    number, scale = whole_numbers(codes, scales, zeros, rows, cols, group_size, bits, tile_cols)
    y = np.zeros(rows, np.float32)
    for first, stop in pieces(cols, group_size):
        isum = number[:, first:stop] @ xq[first:stop].astype(np.float32)
        y += isum * (scale[:, first // group_size] * xscale[first // ACTIVATION_GROUP])
    out[:] = y if row_scale is None else y * row_scale[:rows].astype(np.float32)


def whole_numbers(
    codes: NDArray[np.uint8],
    scales: NDArray[Any],
    zeros: NDArray[np.uint8] | None,
    rows: int,
    cols: int,
    group_size: int,
    bits: int,
    tile_cols: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """code - zero (rows, cols) and the scale that multiplies it (rows, groups), without row_scale."""
    groups = -(-cols // group_size)
    number = tiles.unpack_tiles(codes, rows, cols, bits, tile_cols).astype(np.float32)
    zero = np.full((rows, groups), 2 ** (bits - 1), np.float32)
    if zeros is not None:
        zero = tiles.unpack_zeros(zeros, rows, groups, bits).astype(np.float32)
    number -= zero[:, np.arange(cols) // group_size]
    return number, tiles.unpack_scales(scales, rows, groups).astype(np.float32)


def pieces(cols: int, group_size: int) -> Iterator[tuple[int, int]]:
    """Column ranges, left to right, that cross neither a weight group nor an activation group."""
    starts = sorted({*range(0, cols, group_size), *range(0, cols, ACTIVATION_GROUP)})
    yield from zip(starts, [*starts[1:], cols], strict=False)
