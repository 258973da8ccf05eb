"""Resize an image as Pillow does, to the bit: two passes, columns first, each rounded to 8 bits.

    y[r] = round( sum_i k_ri x[i] / sum_i k_ri )       k_ri = f((i + 1/2 - c_r) / s)       c_r = (r + 1/2) old / new

    f  the filter: Keys' cubic with a = -1/2, zero from 2 on ("bicubic"), or the triangle, zero from 1 on ("bilinear")
    s  = max(old / new, 1): an image that becomes smaller is smoothed, unlike kernels/resize.py, which is for position embeddings

Released models were trained and measured on images that Pillow resized; another bicubic filter costs accuracy. Weights are integers of
22 bits, as in Pillow (Resample.c), so that sums have no order. Pillow 13 begins with the rows where the height falls by more than twice as
many pixels as the width; single pixels then differ a little from older versions, and from here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
PRECISION = 22  # bits of a weight after the point
BICUBIC, BILINEAR = "bicubic", "bilinear"
_ROWS = 1 << 22  # sums that are in memory at a time, 8 bytes each


def resample(image: Pixels, height: int, width: int, kind: str = BICUBIC) -> Pixels:
    """(rows, columns, colours) uint8 -> (height, width, colours) uint8."""
    if image.shape[1] != width:
        image = _along_columns(image, width, kind)
    if image.shape[0] != height:
        image = _along_columns(image.swapaxes(0, 1), height, kind).swapaxes(0, 1)
    return image


def _along_columns(image: Pixels, new: int, kind: str) -> Pixels:
    first, weights = _weights(image.shape[1], new, kind)
    out = np.empty((image.shape[0], new, image.shape[2]), np.uint8)
    step = max(1, _ROWS // max(1, new * image.shape[2]))
    bounds = [*range(0, image.shape[0], step), image.shape[0]]
    for start, stop in pairwise(bounds):
        sums = np.full((stop - start, *out.shape[1:]), 1 << (PRECISION - 1), np.int64)  # a half, for rounding
        for tap in range(weights.shape[1]):
            places = np.minimum(first + tap, image.shape[1] - 1)  # past the last weight of a place, which is 0
            sums += image[start:stop, places] * weights[:, tap, None]
        out[start:stop] = np.clip(sums >> PRECISION, 0, 255)
    return out


def _weights(old: int, new: int, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each new place: the first old place that it reads (new,), and the weights from there on (new, taps)."""
    support, shape = _FILTERS[kind]
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - support * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support * stretch + 0.5).astype(np.int64), old)
    places = first[:, None] + np.arange(int((last - first).max()))
    weights = np.where(places < last[:, None], shape((places - centre[:, None] + 0.5) / stretch), 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    return first, np.trunc(weights * (1 << PRECISION) + np.copysign(0.5, weights)).astype(np.int64)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - np.abs(x), 0.0)


_FILTERS: dict[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    BICUBIC: (2.0, _cubic),
    BILINEAR: (1.0, _triangle),
}
