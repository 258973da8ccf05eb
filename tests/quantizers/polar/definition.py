"""Directions and magnitudes by their definitions: NumPy, one row and one vector at a time, the inverse recomputed. For tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs import PolarConfig
from rwkvquant.kernels.directions import directions
from rwkvquant.kernels.gemv_polar import LEVELS

Array = NDArray[np.float64]


def nearest_code(x: Array, metric: Array, config: PolarConfig, largest: float) -> tuple[int, int]:
    """x (d,), metric (d, d) -> the direction u of largest cosine in the metric, and the level nearest to its best length.

    x M u^T / sqrt(u M u^T), and (x M u^T) / (u M u^T).
    """
    E = directions(config.directions, config.direction_bits).astype(float)
    u = (E / np.linalg.norm(E, axis=1, keepdims=True))[:, : len(x)]
    along, length = u @ metric @ x, np.maximum(np.einsum("ki,ij,kj->k", u, metric, u), 1e-30)
    best = int(np.argmax(along / np.sqrt(length)))
    levels = np.array(LEVELS[config.magnitude_bits]) / LEVELS[config.magnitude_bits][-1] * largest
    return best, int(np.argmin(np.abs(levels - along[best] / length[best])))


def numbers(config: PolarConfig, direction: int, level: int) -> NDArray[np.int64]:
    E = directions(config.directions, config.direction_bits)[direction].astype(np.int64)
    return np.floor(E * LEVELS[config.magnitude_bits][level] / 2**15 + 0.5).astype(np.int64)


def feedback_by_definition(
    W: Array, H: Array, row_scale: Array, config: PolarConfig, largest: float, damping: float, act_order: bool
) -> NDArray[np.uint32]:
    """W (rows, cols), H (cols, cols), row_scale (rows,) -> codes (rows, ceil(cols / 8)).

    A vector's error e costs e B^-1 e^T, and w_F -= e B^-1 (H_F^-1)_P,F with B the vector's block of H_F^-1.
    """
    rows, cols = W.shape
    vectors = [list(range(at, min(at + 8, cols))) for at in range(0, cols, 8)]
    if act_order:
        vectors.sort(key=lambda vector: -H.diagonal()[vector].sum())
    H = H + damping * H.diagonal().sum() / (8 * len(vectors)) * np.eye(cols)  # the mean includes missing columns
    W, codes = W.copy(), np.zeros((rows, len(vectors)), np.uint32)
    todo = [q for vector in vectors for q in vector]
    for P in vectors:
        Hinv = np.linalg.inv(H[np.ix_(todo, todo)])  # H_F^-1
        size = len(P)
        metric = np.linalg.inv(Hinv[:size, :size])
        for r in range(rows):
            direction, level = nearest_code(W[r, P] / (row_scale[r] * 63 / largest), metric, config, largest)
            codes[r, P[0] // 8] = direction + (level << config.direction_bits)
            e = W[r, P] - row_scale[r] * numbers(config, direction, level)[:size]
            W[r, todo] -= e @ metric @ Hinv[:size]
        todo = todo[size:]
    return codes
