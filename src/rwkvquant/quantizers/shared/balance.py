"""The scale of input channels that are far out of line: a power of two for each, as `transforms/column_power.py` stores it.

    W  (out, in)  the products with one input x
    r_c  the size of column c: root mean squares of rows and columns, found in turn, so that no large row hides a small column
    e_c = round(log2(median r / r_c))  where r_c is more than FAR times larger or smaller than the median, else 0
    W' = W diag(2^e) is quantised, and multiplied with x / 2^e

Released models have a few channels that are thousands of times larger than the others, and columns that are as much smaller. Nothing that
neighbouring columns share can serve both: a grid that fits the others rounds such a column to 0; and damping, a share of the mean of
diag(H), is larger than all but the large channels. Scaling them to the size of the others takes that away. Powers of two are exact, so
a model whose channels are all in line has e = 0 and is not changed by a bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

FAR = 8.0
ROUNDS = 3
LARGEST = 20  # exponent


def balance(matrices: Iterable[NDArray[np.float32]]) -> NDArray[np.int32] | None:
    """W (out, in) of each product with this input -> e (in,), or None where no column is far out of line."""
    energy = [_column_energy(np.square(W, dtype=np.float64)) for W in matrices]
    r = np.sqrt(np.sum(energy, 0))
    alive = (r > 0) & np.isfinite(r)
    if not alive.any():
        return None
    ratio = np.divide(np.median(r[alive]), r, out=np.ones_like(r), where=alive)
    far = (ratio > FAR) | (ratio < 1 / FAR)
    if not far.any():
        return None
    return np.where(far, np.round(np.log2(ratio)), 0).clip(-LARGEST, LARGEST).astype(np.int32)


def _column_energy(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(out, in) -> (in,): the sum over rows of each column, rows being divided by their size, which is measured on equal columns."""
    columns = squares.sum(0)
    for _ in range(ROUNDS):
        rows = squares @ _inverse(columns)
        columns = _inverse(rows) @ squares
    alive = columns[columns > 0]
    return columns * (len(squares) / np.median(alive)) if len(alive) else columns


def _inverse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
