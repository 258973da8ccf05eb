"""What transforms that multiply each column by a factor of its own have in common.

f  (n,)  positive        T = diag(1 / f)        W' = W diag(f)        x' = x / f        H'_ij = H_ij / (f_i f_j)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.transforms.base import Array, Arrays, Transform, Values


class Diagonal(Transform):
    """Subclasses say what f is. All factors are multiplied or divided by in the type of the other operand."""

    @abstractmethod
    def factors(self, width: int, dtype: Any, values: Values, arrays: Arrays) -> NDArray[Any]:
        """f (width,)."""

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return self.undone(x, values, arrays)  # W' T and T x both divide by f

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return W * self.factors(W.shape[1], W.dtype, values, arrays)

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # in a damaged file, which `verify` refuses
            return W / self.factors(W.shape[1], W.dtype, values, arrays)

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        f = self.factors(H.shape[1], H.dtype, values, arrays)
        return H / f / f[:, None]

    def native(self, width: int, values: Values, arrays: Arrays) -> Arrays:
        return {"divisors": self.factors(width, np.float32, values, arrays)}
