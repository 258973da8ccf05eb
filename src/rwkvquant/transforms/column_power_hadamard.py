"""A power of two for some columns, then the randomised Hadamard transform: for inputs with channels that are far out of line.

    e  (n,)  as in column_power.py        T_H  (n, n)  as in hadamard.py        T = T_H diag(2^-e)        T^-1 = diag(2^e) T_H^T

    W' = W diag(2^e) T_H^T is quantised; x' = T_H (x / 2^e); H' = T_H diag(2^-e) H diag(2^-e) T_H^T

The order matters: a rotation alone spreads a channel that is 4,096 times too large over all columns of its block, which then have only its
energy. Keys and arrays are those of both parts.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.transforms.base import Applied, Array, Arrays, Transform, Values, register
from rwkvquant.transforms.column_power import COLUMN_POWER
from rwkvquant.transforms.hadamard import HADAMARD


class ColumnPowerHadamard(Transform):
    """column-power-hadamard: `column-power`, then `hadamard`."""

    name = "column-power-hadamard"
    keys: ClassVar = {**COLUMN_POWER.keys, **HADAMARD.keys}

    def make(self, width: int, seed: int) -> Applied:
        return self.of(np.zeros(width, np.int32), seed)

    def of(self, exponents: NDArray[np.integer[Any]], seed: int) -> Applied:
        """exponents (n,) as of `column-power`; the signs are those of `hadamard` with this seed."""
        scaled, rotated = COLUMN_POWER.of(exponents), HADAMARD.make(len(exponents), seed)
        return Applied(self.name, {**scaled.values, **rotated.values}, {**scaled.arrays, **rotated.arrays})

    def check(self, values: Values, width: int) -> None:
        COLUMN_POWER.check(values, width)
        HADAMARD.check(values, width)

    def check_arrays(self, values: Values, width: int, arrays: Arrays) -> None:
        COLUMN_POWER.check_arrays(values, width, arrays)

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        return {**COLUMN_POWER.sizes(values, width), **HADAMARD.sizes(values, width)}

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return HADAMARD.activations(COLUMN_POWER.activations(x, values, arrays), values, arrays)

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return HADAMARD.weights(COLUMN_POWER.weights(W, values, arrays), values, arrays)

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return COLUMN_POWER.undone(HADAMARD.undone(W, values, arrays), values, arrays)

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        return HADAMARD.hessian(COLUMN_POWER.hessian(H, values, arrays), values, arrays)

    def native(self, width: int, values: Values, arrays: Arrays) -> Arrays:
        return {**COLUMN_POWER.native(width, values, arrays), **HADAMARD.native(width, values, arrays)}

    def flops(self, width: int, values: Values) -> int:
        return COLUMN_POWER.flops(width, values) + HADAMARD.flops(width, values)


COLUMN_POWER_HADAMARD = ColumnPowerHadamard()
register(COLUMN_POWER_HADAMARD)
