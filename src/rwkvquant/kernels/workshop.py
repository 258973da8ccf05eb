"""Native loops that quantising would spend its time in; their definitions are in quantizers/, which fall back on them.

Results do not depend on `threads`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.dispatch import native_module

Array = NDArray[np.float32] | NDArray[np.float64]


def exact_kmeans(
    x: NDArray[np.float64], p: NDArray[np.float64], k: int, limits: tuple[int, int] | None, threads: int = 1
) -> NDArray[np.float64] | None:
    """x, p (groups, n) float64, x ascending -> centroids (groups, k), or None where there is no native module."""
    native = native_module()
    if native is None:
        return None
    out = np.empty((len(x), k))
    low, high = limits or (0, 0)
    native.exact_kmeans(x, p, limits is not None, low, high, out, threads)
    return out


def round_columns(
    descent: bool,
    bits: int,
    block: Array,
    matrix: Array,
    table: NDArray[np.int32],
    codes: NDArray[np.uint8],
    threads: int,
    *,
    scale: NDArray[np.float32] | None = None,
    zero: NDArray[np.float32] | None = None,
    centroids: Array | None = None,
    names: NDArray[np.uint8] | None = None,
    row_scale: Array | None = None,
) -> Array | None:
    """A block of columns (columns, rows) rounded in turn: by error feedback, to codes and error / U_qq, with the block of U as `matrix`;
    or, `descent`, codes moved to where the loss is least, with G as `block`, kept up to date, and the block of H: the changes of value.

    `table` says of each column which group's scale and zero (groups, rows) it has, or which centroids (column blocks, K, rows), with their
    names for error feedback, and row_scale (rows,). None where there is no native module.
    """
    native = native_module()
    if native is None:
        return None
    changes = np.empty_like(block)
    native.round_columns(descent, bits, block, matrix, table, scale, zero, centroids, names, row_scale, codes, changes, threads)
    return changes


def code_gram(codes: NDArray[np.uint8], H: Array, scale: Array, group_rows: int, K: int, threads: int) -> Array | None:
    """codes (columns, rows), H (columns, columns), scale (rows,) -> sums of s^2 H by pairs of codes, (row blocks, K, K)."""
    native = native_module()
    if native is None:
        return None
    N = np.empty((-(-codes.shape[1] // group_rows), K, K), H.dtype)
    native.code_gram(codes, H, scale, group_rows, N, threads)
    return N


def step_coefficients(
    N: Array, g: Array, u: Array, solved: Array, basis: Array, shift: int, passes: int, limits: tuple[int, int], largest: int, threads: int
) -> Array | None:
    """quantizers/codebook/factors.py, from the real solution rounded on: coefficients (tables, R)."""
    native = native_module()
    if native is None:
        return None
    found = np.empty_like(u)
    native.step_coefficients(N, g, u, solved, basis, shift, passes, *limits, largest, found, threads)
    return found
