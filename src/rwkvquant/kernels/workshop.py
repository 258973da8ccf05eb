"""Native versions of the slowest loops of quantising. Their definitions are in quantizers/ and kernels/, and run where there is no
native module.

Results do not depend on `threads`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.dispatch import native_module

Array = NDArray[np.float32] | NDArray[np.float64]


def hadamard(x: Array, bits: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """hadamard of kernels/hadamard.py, or None where there is no native module, and for float64."""
    native = native_module()
    if native is None or x.dtype != np.float32:
        return None
    out = np.empty(x.shape, np.float32)
    native.hadamard(np.ascontiguousarray(x), bits, out)
    return out


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
    """Round the columns of a block (columns, rows) in turn, and write their `codes`.

    With error feedback, `block` has the weights and `matrix` is the block of U; gives error / U_qq. With `descent`, codes change to where
    the loss is least, `block` has G, which is kept up to date, and `matrix` is the block of H; gives the changes of the values.
    `table` has the group of each column, for scale and zero (groups, rows), or its column block, for centroids (column blocks, K, rows)
    with row_scale (rows,), and for error feedback their codes, `names`. None where there is no native module.
    """
    native = native_module()
    if native is None:
        return None
    changes = np.empty_like(block)
    native.round_columns(descent, bits, block, matrix, table, scale, zero, centroids, names, row_scale, codes, changes, threads)
    return changes


def round_scaled_columns(
    descent: bool,
    block: Array,
    matrix: Array | None,
    tables: Array,
    widths: NDArray[np.int32],
    row_scale: Array,
    scales: Array,
    codes: NDArray[np.uint8],
    changes: Array,
    *,
    fits: int = 0,
    penalty: float = 0.0,
    E: Array | None = None,
) -> bool:
    """Round the columns of a block (columns, rows) in turn, and write their `scales` (columns,), `codes` and `changes` (columns, rows).

    With error feedback, `block` has the weights as corrected so far, and is corrected; `matrix` is the block of U, or None where columns do
    not make up for errors; each scale is fitted `fits` times; changes are error / U_cc. With `descent`, `block` has G, which is kept up
    to date, `matrix` is the block of H, to whose diagonal `penalty` is added, and E (columns, rows) is the error before; scales and codes
    go to where the loss is least; changes are those of the values. `tables` (.., entries) has the table of each width, ascending, `widths`
    that of each column. One thread: each column waits for the one before. False where there is no native module; then nothing was done.
    """
    native = native_module()
    if native is None:
        return False
    native.round_scaled_columns(descent, fits, penalty, block, matrix, E, tables, widths, row_scale, scales, codes, changes)
    return True


def code_gram(codes: NDArray[np.uint8], H: Array, scale: Array, group_rows: int, K: int, threads: int) -> Array | None:
    """codes (columns, rows), H (columns, columns), scale (rows,) -> sums of s^2 H by pairs of codes, (row blocks, K, K),
    or None where there is no native module."""
    native = native_module()
    if native is None:
        return None
    N = np.empty((-(-codes.shape[1] // group_rows), K, K), H.dtype)
    native.code_gram(codes, H, scale, group_rows, N, threads)
    return N


def step_coefficients(
    N: Array, g: Array, u: Array, solved: Array, basis: Array, shift: int, passes: int, limits: tuple[int, int], largest: int, threads: int
) -> Array | None:
    """step_coefficients of quantizers/codebook/factors.py, after `solved`, the rounded real solution: coefficients (tables, R), or None
    where there is no native module."""
    native = native_module()
    if native is None:
        return None
    coefficients = np.empty_like(u)
    native.step_coefficients(N, g, u, solved, basis, shift, passes, *limits, largest, coefficients, threads)
    return coefficients


def round_pairs(
    descent: bool,
    alone: int,
    group_rows: int,
    block: Array,
    matrix: Array,
    tables: Array,
    row_scale: Array,
    codes: NDArray[np.uint8],
    threads: int,
) -> Array | None:
    """As round_columns, for pairs of columns and tables (row groups, 2, K), and writes `codes` (pairs, rows); gives |a|'s a with feedback.

    `alone` is the pair whose second column does not count, or -1; in descent a last column may have no partner.
    """
    native = native_module()
    if native is None:
        return None
    changes = np.empty_like(block)
    native.round_pairs(descent, alone, group_rows, block, matrix, tables, row_scale, codes, changes, threads)
    return changes


def sum_clusters(x: Array, p: Array, centroids: Array, threads: int) -> Array | None:
    """x, p (groups, n, 2), centroids (groups, k, 2) -> sums of p, p (x - c) and p (x - c)^2 over the points nearest to each centroid,
    (groups, k, 3, 2), or None where there is no native module."""
    native = native_module()
    if native is None:
        return None
    sums = np.empty((*centroids.shape[:2], 3, 2), centroids.dtype)
    native.sum_clusters(x, p, centroids, sums, threads)
    return sums
