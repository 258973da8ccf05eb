"""What a transform is: a change of the input of a product that leaves the product as it was.

    x      (n,)            an activation; x' = T x is what the stored matrix is multiplied with
    W      (out, n)        the weights; W' = W T^-1 is what is quantised, so that W' x' = W x
    H      (n, n)          the Hessian of x; H' = T H T^T is that of x'

T may depend on numbers in the file's table (`values`) and on arrays that it stores beside the matrix (`arrays`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import FormatError

Array = NDArray[np.float32]
Values = Mapping[str, int]
Arrays = Mapping[str, NDArray[Any]]


class Transform(ABC):
    """One kind of T. Subclasses set `name`, and `keys` where the table says more; `register` an instance."""

    name: ClassVar[str]
    keys: ClassVar[Mapping[str, type[int]]] = {}  # what the table says of it, and the JSON type

    def check(self, values: Values, width: int) -> None:  # noqa: B027 (a transform without values has nothing to check)
        """Raises FormatError for values that break a rule, or inputs of a width that T cannot have."""

    def sizes(self, values: Values, width: int) -> dict[str, tuple[Any, int]]:
        """suffix -> (dtype, elements without padding) of what it stores for inputs of this width."""
        return {}

    @abstractmethod
    def activations(self, x: Array, values: Values, arrays: Arrays) -> Array:
        """x (count, n) -> T x."""

    @abstractmethod
    def weights(self, W: Array, values: Values, arrays: Arrays) -> Array:
        """W (out, n) -> W T^-1."""

    @abstractmethod
    def undone(self, W: Array, values: Values, arrays: Arrays) -> Array:
        """W' (out, n) -> W' T: the matrix that is multiplied with x itself. An engine that has no T of its own runs this."""

    @abstractmethod
    def hessian(self, H: NDArray[Any], values: Values, arrays: Arrays) -> NDArray[Any]:
        """H (n, n) -> T H T^T."""

    @abstractmethod
    def flops(self, width: int, values: Values) -> int:
        """Additions and multiplications for one activation."""


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
    """A transform with its values and arrays: what a tensor of a file has."""

    name: str = "none"
    values: Values = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def transform(self) -> Transform:
        """Raises FormatError for a name that is not known."""
        return transform_named(self.name)

    def weights(self, W: Array) -> Array:
        return self.transform.weights(W, self.values, self.arrays)

    def undone(self, W: Array) -> Array:
        return self.transform.undone(W, self.values, self.arrays)


_BY_NAME: dict[str, Transform] = {}


def register(transform: Transform) -> Transform:
    """Make a transform known to files, engines and exports. Once for each name."""
    assert _BY_NAME.setdefault(transform.name, transform) is transform, f"there is a transform {transform.name} already"
    return transform


def unregister(transform: Transform) -> None:
    """Forget a transform again: for tests that define one."""
    del _BY_NAME[transform.name]


def transform_named(name: str) -> Transform:
    """Raises FormatError, which lists the names, for one that is not known."""
    if name not in _BY_NAME:
        raise FormatError(f"this version knows no transform {ascii(name)[:80]} (it has {', '.join(_BY_NAME)}). Try a newer rwkvquant.")
    return _BY_NAME[name]


def transform_names() -> tuple[str, ...]:
    return tuple(_BY_NAME)


register(Identity())
