"""Resize a grid of vectors by weights that torch's `interpolate(align_corners=False)` has: bicubic (a = -0.75) and bilinear, no antialias.

    y[r, c] = sum over i, j of R[r, i] C[c, j] x[i, j]        R (new rows, rows), C (new columns, columns)

A new place d is at s = (d + 1/2) old / new - 1/2 of the old axis; places outside repeat the border.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.functions import Array

CUBIC = -0.75


def bicubic_weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): four neighbours each, weighted by Keys' cubic; where old == new the identity."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(places)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        distance = np.abs(places - (first + offset))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1  # up to 1
        far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)  # from 1 to 2
        _add_at(weights, first + offset, np.where(distance <= 1, near, far))
    return weights


def bilinear_weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): two neighbours each."""
    places = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    first = np.floor(places)
    weights = np.zeros((new, old))
    _add_at(weights, first, 1 - (places - first))
    _add_at(weights, first + 1, places - first)
    return weights


def resize(x: Array, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Array:
    """x (..., rows, columns) by the weights of both axes -> (..., new rows, new columns)."""
    return rows.astype(x.dtype) @ x @ columns.astype(x.dtype).T


def _add_at(weights: NDArray[np.float64], places: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    old = weights.shape[1]
    np.add.at(weights, (np.arange(len(weights)), np.clip(places, 0, old - 1).astype(int)), values)
