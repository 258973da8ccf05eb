"""Matrices stored by columns by their definition: NumPy, one row and one column at a time, the inverse recomputed. For tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nearest(x: float, table: Array) -> int:
    """The first of equals."""
    return int(np.argmin(np.abs(x - table)))


def walk_by_definition(
    W: Array, H: Array, tables: list[Array], row_scale: Array, col_scale: Array, damping: float, act_order: bool, fits: int
) -> tuple[NDArray[np.uint8], Array]:
    """W (rows, cols), a table and a first scale for each column -> codes (rows, cols) and the scales of columns as they were fitted.

    The error e of a column moves the columns F after it by e (H_F^-1)_q,: / (H_F^-1)_qq, so that these make up for it.
    """
    rows, cols = W.shape
    order = sorted(range(cols), key=lambda q: -H[q, q]) if act_order else list(range(cols))
    H = H + damping * H.diagonal().mean() * np.eye(cols)
    W, codes, scales = W.copy(), np.zeros((rows, cols), np.uint8), col_scale.copy()
    for at, q in enumerate(order):
        left = order[at:]
        inverse = np.linalg.inv(H[np.ix_(left, left)])[0]
        for _ in range(fits):
            t = np.array([tables[q][nearest(W[r, q] / row_scale[r] / scales[q], tables[q])] for r in range(rows)])
            scales[q] = (W[:, q] * row_scale * t).sum() / np.square(row_scale * t).sum()
        scales[q] = np.float16(scales[q])
        for r in range(rows):
            codes[r, q] = nearest(W[r, q] / row_scale[r] / scales[q], tables[q])
            error = W[r, q] - row_scale[r] * scales[q] * tables[q][codes[r, q]]
            W[r, left] -= error * inverse / inverse[0]
    return codes, scales
