"""What a transform is: a change of the input of a product, and of the weights, that does not change the product.

    x      (n,)            an activation; the stored matrix is multiplied with x' = T x
    W      (out, n)        the weights; W' = W T^-1 is quantised, so W' x' = W x
    H      (n, n)          the Hessian of x; H' = T H T^T is that of x'

T may depend on numbers in the table of the file (`values`) and on arrays that are stored with the matrix (`arrays`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError

Array = NDArray[np.float32]
Values = Mapping[str, int]
Arrays = Mapping[str, NDArray[Any]]


class Transform(ABC):
    """One kind of T. Subclasses set `name`, and `keys` if the table has parameters; `register` an instance."""

    name: ClassVar[str]
    keys: ClassVar[Mapping[str, type[int]]] = {}  # keys of the table -> their JSON types
    fitted: ClassVar[bool] = False  # whether T depends on the weights and their input, so that `make` is only where it begins
    mixes: ClassVar[bool] = False  # whether T is a rotation, which what makes the input can apply only if nothing stands between

    def make(self, width: int, seed: int) -> Applied:
        """T for inputs of this width, for a quantiser that knows nothing else of it. `seed`: of what T draws at random."""
        return Applied(self.name)

    def check(self, values: Values, width: int) -> None:  # noqa: B027 (a transform without values has nothing to check)
        """Raises FormatError for values that break a rule, and for a width of the input that T cannot have."""

    def check_arrays(self, values: Values, width: int, arrays: Arrays) -> None:  # noqa: B027 (as above)
        """Raises FormatError for arrays that break a rule; `verify` calls it."""

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        """suffix -> (dtype, elements without padding) of the arrays that it stores for inputs of this width."""
        return {}

    @abstractmethod
    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        """x (count, n) -> T x."""

    @abstractmethod
    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        """W (out, n) -> W T^-1."""

    @abstractmethod
    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        """W' (out, n) -> W' T: the matrix for x itself. Engines that do not apply T use this."""

    @abstractmethod
    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        """H (n, n) -> T H T^T."""

    def native(self, width: int, values: Values, arrays: Arrays) -> Arrays | None:
        """What native.Matrix gets besides a matrix of this width, by name. None: it does not apply T, and engines undo it in
        the weights."""
        return None

    @abstractmethod
    def flops(self, width: int, values: Values) -> int:
        """How many additions and multiplications T takes for one activation."""


class Identity(Transform):
    """none: T = 1."""

    name = "none"

    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        return x

    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return W

    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        return W

    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        return H

    def flops(self, width: int, values: Values) -> int:
        return 0


@dataclass(frozen=True)
class Applied:
    """A transform with its values and arrays, as a tensor of a file has it.

    folded: what makes the input is to apply it (pipeline/folding.py). No tensor of a file has such a transform.
    """

    name: str = "none"
    values: Values = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    folded: bool = False

    @property
    def transform(self) -> Transform:
        """Raises FormatError for an unknown name."""
        return transform_named(self.name)

    @property
    def key(self) -> Hashable:
        """Equal for transforms that are the same."""
        return self.name, tuple(sorted(self.values.items())), tuple((name, array.tobytes()) for name, array in sorted(self.arrays.items()))

    def activations(self, x: Array) -> Array:
        return self.transform.activations(x, self.values, self.arrays)

    def weights(self, W: Array) -> Array:
        return self.transform.weights(W, self.values, self.arrays)

    def undone(self, W: Array) -> Array:
        return self.transform.undone(W, self.values, self.arrays)

    def native(self, width: int) -> Arrays | None:
        return self.transform.native(width, self.values, self.arrays)

    def hessian(self, H: NDArray[Any]) -> NDArray[Any]:
        return self.transform.hessian(H, self.values, self.arrays)


NONE = Applied()
_BY_NAME: dict[str, Transform] = {}


def register(transform: Transform) -> Transform:
    """Make a transform known to files, engines and exports. Names are unique."""
    assert _BY_NAME.setdefault(transform.name, transform) is transform, f"there already is a transform {transform.name}"
    return transform


def unregister(transform: Transform) -> None:
    """Remove a transform: for tests that define one."""
    del _BY_NAME[transform.name]


def transform_named(name: str) -> Transform:
    """Raises FormatError, which lists the names, for an unknown name."""
    if name not in _BY_NAME:
        raise FormatError(f"this version knows no transform {ascii(name)[:80]} (it has {', '.join(_BY_NAME)}). Try a newer rwkvquant.")
    return _BY_NAME[name]


def transform_names() -> tuple[str, ...]:
    return tuple(_BY_NAME)


register(Identity())
