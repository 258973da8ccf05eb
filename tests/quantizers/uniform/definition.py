"""GPTQ and its grids by their definitions: NumPy, one row and one column at a time, the inverse recomputed. O(n^4); for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs import GridConfig, UniformTensor

Array = NDArray[np.float64]


def ideal_scale(w: Array, grid: GridConfig, shrink: float = 1.0) -> float:
    lo, hi = shrink * min(w.min(), 0.0), shrink * max(w.max(), 0.0)
    width = 2 * max(hi, -lo) if grid.symmetric else hi - lo
    return width / (2**grid.bits - 1)


def row_scales_by_definition(W: Array, grid: GridConfig) -> NDArray[np.float16] | None:
    """The smallest float16 that is at least the largest min/max scale of a row when multiplied by 255."""
    if grid.scale_bits == 16:
        return None
    result = []
    for row in W:
        largest = max(ideal_scale(row[at : at + grid.group_size], grid) for at in range(0, len(row), grid.group_size))
        half = max(np.float16(min(largest / 255, 65504)), np.float16(2**-24))
        while 255 * float(half) < largest and half < 65504:
            half = np.nextafter(half, np.float16(np.inf))
        result.append(half)
    return np.array(result, np.float16)


def grid_by_definition(
    w: Array, grid: GridConfig, row_scale: np.float16 | None, importance: Array | None, shrinks: tuple[float, ...]
) -> tuple[np.float32, np.float32]:
    """One group w (g,) -> its stored scale and zero; `shrinks` are the ranges to choose from, (1.0,) for no search."""
    best = (np.inf, np.float32(0), np.float32(0))
    for shrink in shrinks:
        ideal = ideal_scale(w, grid, shrink)
        if row_scale is None:
            scale = np.float32(np.float16(np.clip(ideal, 2**-24, 65504)))
        else:
            scale = np.float32(row_scale) * np.float32(np.clip(np.rint(ideal / np.float64(row_scale)), 1, 255))
        zero = 2 ** (grid.bits - 1) if grid.symmetric else np.clip(np.rint(-shrink * min(w.min(), 0.0) / scale), 0, 2**grid.bits - 1)
        error = (value(nearest(w, scale, zero, grid.bits), scale, zero) - w) ** 2
        error = (error if importance is None else error * importance).sum()
        if error < best[0]:
            best = (error, scale, np.float32(zero))
    return best[1], best[2]


def nearest(w: Array, scale: float, zero: float, bits: int) -> Array:
    return np.clip(np.rint(w / np.float64(scale)) + zero, 0, 2**bits - 1)


def value(codes: Array, scale: float, zero: float) -> Array:
    return ((codes - zero).astype(np.float32) * np.float32(scale)).astype(np.float64)


def gptq_by_definition(
    W: Array,
    H: Array,
    grid: GridConfig,
    *,
    damping: float,
    act_order: bool,
    static_groups: bool,
    shrinks: tuple[float, ...] = (1.0,),
    importance: Array | None = None,
) -> UniformTensor:
    """GPTQ, Eq. (2) of arXiv:2210.17323. W (rows, cols) and H (cols, cols), not singular once damped."""
    rows, cols = W.shape
    groups = range(-(-cols // grid.group_size))
    H = H + damping * H.diagonal().mean() * np.eye(cols)
    todo = sorted(range(cols), key=lambda q: -H[q, q]) if act_order else list(range(cols))
    row_scale = row_scales_by_definition(W, grid)
    scale, zero = np.zeros((rows, len(groups)), np.float32), np.zeros((rows, len(groups)), np.float32)
    codes = np.zeros((rows, cols), np.uint8)
    W = W.copy()

    def find(group: int) -> None:
        columns = slice(group * grid.group_size, (group + 1) * grid.group_size)
        weights = None if importance is None else importance[columns]
        for r in range(rows):
            of_row = None if row_scale is None else row_scale[r]
            scale[r, group], zero[r, group] = grid_by_definition(W[r, columns], grid, of_row, weights, shrinks)

    if static_groups:
        for group in groups:
            find(group)
    while todo:
        q, group = todo[0], todo[0] // grid.group_size
        if not static_groups and q % grid.group_size == 0:
            find(group)
        Hinv = np.linalg.inv(H[np.ix_(todo, todo)])  # H_F^-1
        for r in range(rows):
            code = nearest(W[r, q], scale[r, group], zero[r, group], grid.bits)
            error = (W[r, q] - value(code, scale[r, group], zero[r, group])) / Hinv[0, 0]
            W[r, todo] -= error * Hinv[0]  # Eq. (2)
            codes[r, q] = code
        todo = todo[1:]

    zeros = None if grid.symmetric else zero.astype(np.uint8)
    if row_scale is None:
        return UniformTensor(codes, grid.bits, grid.group_size, zeros, scales=scale.astype(np.float16))
    scale_codes = np.rint(scale / row_scale.astype(np.float32)[:, None]).astype(np.uint8)
    return UniformTensor(codes, grid.bits, grid.group_size, zeros, scale_codes=scale_codes, row_scale=row_scale)
