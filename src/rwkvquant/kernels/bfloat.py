"""bfloat16 is the upper half of a float32. NumPy does not have the type, so values are stored as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOWER = np.uint32(0xFFFF)


def widen_bfloat(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow_exactly(values: NDArray[np.float32]) -> NDArray[Any]:
    """The same numbers as float16 if that is exact, else as bfloat16 in uint16 if that is exact, else `values`."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half, values):
        return half
    bits = values.view(np.uint32)
    return values if (bits & _LOWER).any() else (bits >> np.uint32(16)).astype(np.uint16)
