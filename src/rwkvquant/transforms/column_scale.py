"""The scale of columns: input channels that matter more are stored larger, and so with smaller relative errors (AWQ, arXiv:2306.00978).

    s  (n,)  a positive factor for each column        T = diag(1 / s)        T^-1 = diag(s)

    W' = W diag(s) is quantised; x' = x / s; H'_ij = H_ij / (s_i s_j)

s is float16, and all factors are multiplied or divided by in the type of the other operand. Which s is good depends on W and on its input,
so `make` knows only s = 1; quantizers/shared/scaling.py chooses it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError
from rwkvquant.transforms.base import Applied, Array, Arrays, Transform, Values, register


class ColumnScale(Transform):
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

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return self.undone(x, values, arrays)  # W' T and T x both divide by s

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return W * _scale(arrays, W)

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # in a damaged file, which `verify` refuses
            return W / _scale(arrays, W)

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        scale = _scale(arrays, H)
        return H / scale / scale[:, None]

    def native(self, width: int, values: Values, arrays: Arrays) -> Arrays:
        return {"divisors": np.asarray(arrays["scale"]).astype(np.float32)}

    def flops(self, width: int, values: Values) -> int:
        return width


def _scale(arrays: Arrays, like: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(arrays["scale"])[: like.shape[1]].astype(like.dtype)


COLUMN_SCALE = ColumnScale()
register(COLUMN_SCALE)
