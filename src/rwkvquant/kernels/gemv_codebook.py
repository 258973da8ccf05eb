"""y = W x for 1-D codebooks of 8 centroids (layout codebook3.t16x32), int8 activations: the definition of native/gemv_codebook.cpp.

    W       (rows, cols)   weight, decoded row_scale * (centroid[code] - 64)    (formats/qtensor.py)
    x       (cols,)        xscale * xq, in activation groups of 64 columns      (activations.py)

    isum[r]  = sum over an activation group of (centroid[code] - 64) * xq      exact, in integers
    y[r]     = y[r] + float(isum[r]) * xscale                                  groups from left to right, from y = 0
    y[r]     = y[r] * row_scale[r]

Every * and + of the last two lines is one float32 operation, rounded on its own, never fused. The integers are computed in
float32, where they are exact: |isum| <= 64 * 128 * 64 < 2^24.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import ACTIVATION_GROUP

CENTROID_ZERO = 64  # as in formats/qtensor.py, which stands above


def gemv_codebook(
    codes: NDArray[np.uint8],
    codebooks: NDArray[np.uint8],
    row_scale: NDArray[np.float16],
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    out: NDArray[np.float32],
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed (tiles.py), and may be padded at their ends."""
    code = tiles.unpack_tiles(codes, rows, cols, tiles.CODEBOOK_BITS, tiles.CODEBOOK_COLS)
    tables = tiles.unpack_codebooks(codebooks, rows, cols)  # (pairs of rows, column tiles, 8)
    pair = np.arange(rows)[:, None] // tiles.CODEBOOK_ROWS
    column_tile = np.arange(cols)[None, :] // tiles.CODEBOOK_COLS
    weight = tables[pair, column_tile, code].astype(np.float32) - CENTROID_ZERO

    y = np.zeros(rows, np.float32)
    for a, first in enumerate(range(0, cols, ACTIVATION_GROUP)):
        group = slice(first, min(first + ACTIVATION_GROUP, cols))
        isum = weight[:, group] @ xq[group].astype(np.float32)
        y += isum * xscale[a]
    out[:] = y * row_scale[:rows].astype(np.float32)
