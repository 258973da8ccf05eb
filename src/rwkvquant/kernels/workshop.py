"""Native loops that quantising would spend its time in; their definitions are in quantizers/, which fall back on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.dispatch import native_module


def exact_kmeans(x: NDArray[np.float64], p: NDArray[np.float64], k: int, limits: tuple[int, int] | None) -> NDArray[np.float64] | None:
    """x, p (groups, n) float64, x ascending -> centroids (groups, k), or None where there is no native module."""
    native = native_module()
    if native is None:
        return None
    out = np.empty((len(x), k))
    low, high = limits or (0, 0)
    native.exact_kmeans(x, p, limits is not None, low, high, out)
    return out
