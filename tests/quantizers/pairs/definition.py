"""Two-dimensional codebooks by their definitions: NumPy, one row and one pair of columns at a time, the inverse recomputed. For tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nearest_pair(x: Array, metric: Array, table: Array) -> int:
    """x (d,), metric (d, d), table (K, d) -> the entry of least (x - c) metric (x - c)^T; the first of equals."""
    return int(np.argmin([(x - c) @ metric @ (x - c) for c in table]))


def feedback_pairs_by_definition(
    W: Array, H: Array, tables: Array, scale: Array, group_rows: int, damping: float, act_order: bool
) -> NDArray[np.uint8]:
    """W (rows, cols), H (cols, cols), tables (row groups, K, 2), scale (rows,) -> codes (rows, ceil(cols/2)).

    A pair's error e costs e B^-1 e^T, and w_F -= e B^-1 (H_F^-1)_pair,: with B the pair's block of H_F^-1: what stays of the
    loss, and how the columns F move, when they make up for e as well as they can. The last column may have no partner.
    """
    rows, cols = W.shape
    pairs = [list(range(at, min(at + 2, cols))) for at in range(0, cols, 2)]
    if act_order:
        pairs.sort(key=lambda pair: -H.diagonal()[pair].sum())
    H = H + damping * H.diagonal().sum() / (cols + cols % 2) * np.eye(cols)  # the mean includes a missing second column
    W = W.copy()
    codes = np.zeros((rows, -(-cols // 2)), np.uint8)
    todo = [q for pair in pairs for q in pair]
    for pair in pairs:
        Hinv = np.linalg.inv(H[np.ix_(todo, todo)])  # H_F^-1
        size = len(pair)
        metric = np.linalg.inv(Hinv[:size, :size])
        for r in range(rows):
            table = tables[r // group_rows][:, :size] * scale[r]
            code = nearest_pair(W[r, pair], metric, table)
            codes[r, pair[0] // 2] = code
            W[r, todo] -= (W[r, pair] - table[code]) @ metric @ Hinv[:size]
        todo = todo[size:]
    return codes
