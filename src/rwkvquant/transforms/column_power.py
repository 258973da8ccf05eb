"""A power of two for some columns: those that are far larger or smaller than the others (quantizers/shared/balance.py).

    e  (n,)  an exponent for each column, 0 for most        T = diag(2^-e)        T^-1 = diag(2^e)

    W' = W diag(2^e) is quantised; x' = x / 2^e; H'_ij = H_ij / (2^e_i 2^e_j)

Only exponents that are not 0 are stored, `count` of them, as pairs: column, exponent. Powers of two are exact in every float type.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.transforms.base import Applied, Arrays, Values, register
from rwkvquant.transforms.diagonal import Diagonal

LARGEST = 30  # exponent: far beyond what channels of a model differ by, and far from the ends of float32


class ColumnPower(Diagonal):
    """column-power: a power of two for some columns."""

    name = "column-power"
    keys: ClassVar = {"count": int}

    def make(self, width: int, seed: int) -> Applied:
        return self.of(np.zeros(width, np.int32))

    def of(self, exponents: NDArray[np.integer[Any]]) -> Applied:
        """exponents (n,) in -LARGEST..LARGEST."""
        assert np.abs(exponents).max(initial=0) <= LARGEST, "exponents out of range"
        (columns,) = np.nonzero(exponents)
        pairs = np.stack([columns, exponents[columns]], 1).astype(np.int32)
        return Applied(self.name, {"count": len(columns)}, {"pairs": pairs.reshape(-1)})

    def check(self, values: Values, width: int) -> None:
        if not 0 <= values["count"] <= width:
            raise FormatError(f"count of {self.name} must be 0 to the width, {width}; got {values['count']}")

    def check_arrays(self, values: Values, width: int, arrays: Arrays) -> None:
        columns, exponents = _pairs(values, arrays)
        if len(columns) and not (columns[0] >= 0 and columns[-1] < width and (np.diff(columns) > 0).all()):
            raise FormatError(f"columns of {self.name} must rise, from 0 to {width - 1}; got {columns.tolist()[:8]}")
        if (np.abs(exponents) > LARGEST).any():
            raise FormatError(f"exponents of {self.name} must be -{LARGEST} to {LARGEST}; got {exponents.tolist()[:8]}")

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        return {"pairs": (np.int32, 2 * values["count"])}

    def factors(self, width: int, dtype: Any, values: Values, arrays: Arrays) -> NDArray[Any]:
        """2^e. What `verify` refuses in a damaged file does no harm here."""
        columns, exponents = _pairs(values, arrays)
        inside = (columns >= 0) & (columns < width)
        powers = np.ones(width, dtype)
        powers[columns[inside]] = np.exp2(exponents[inside].clip(-LARGEST, LARGEST).astype(dtype))
        return powers

    def flops(self, width: int, values: Values) -> int:
        return values["count"]


def _pairs(values: Values, arrays: Arrays) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    pairs = np.asarray(arrays["pairs"])[: 2 * values["count"]].reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


COLUMN_POWER = ColumnPower()
register(COLUMN_POWER)
