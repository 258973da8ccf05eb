"""The scale of columns: input channels that matter more are stored larger, and so with smaller relative errors (AWQ, arXiv:2306.00978).

    s  (n,)  a positive factor for each column        T = diag(1 / s)        T^-1 = diag(s)

    W' = W diag(s) is quantised; x' = x / s; H'_ij = H_ij / (s_i s_j)

s is float16. Which s is good depends on W and on its input, so `make` knows only s = 1; quantizers/shared/scaling.py chooses it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.transforms.base import Applied, Arrays, Values, register
from rwkvquant.transforms.diagonal import Diagonal


class ColumnScale(Diagonal):
    """column-scale: one factor for each column."""

    name = "column-scale"
    fitted: ClassVar = True

    def make(self, width: int, seed: int) -> Applied:
        return self.of(np.ones(width, np.float16))

    def of(self, scale: NDArray[np.float16]) -> Applied:
        """scale (n,) positive and finite."""
        return Applied(self.name, {}, {"scale": scale})

    def check_arrays(self, values: Values, width: int, arrays: Arrays) -> None:
        scale = arrays["scale"][:width]
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise FormatError(f"scale of {self.name} must be finite and above 0; got {scale[~(np.isfinite(scale) & (scale > 0))][0]}")

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        return {"scale": (np.float16, width)}

    def factors(self, width: int, dtype: Any, values: Values, arrays: Arrays) -> NDArray[Any]:
        return np.asarray(arrays["scale"])[:width].astype(dtype)

    def flops(self, width: int, values: Values) -> int:
        return width


COLUMN_SCALE = ColumnScale()
register(COLUMN_SCALE)
