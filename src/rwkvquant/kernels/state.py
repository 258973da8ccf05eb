"""The recurrent state that is passed from token to token: named arrays, as an architecture describes them.

A specification names the axes of each array by symbols: L layers, B sequences, the sizes of the model (C width, H heads, N head size),
and T, the number of tokens read, for an array that grows with every token. The RWKV family has only arrays of fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StateArray:
    """One array of a state: its name and the symbols of its axes. Every array has an axis B."""

    name: str
    axes: tuple[str, ...]

    @property
    def grows(self) -> bool:
        """Whether it has one entry for each token that was read."""
        return "T" in self.axes

    @property
    def batch_axis(self) -> int:
        return self.axes.index("B")

    def shape(self, sizes: Mapping[str, int], batch: int = 1) -> tuple[int, ...]:
        """The shape for `batch` sequences before the first token; `sizes` by the model's symbols."""
        known = {**sizes, "B": batch, "T": 0}
        return tuple(known[axis] for axis in self.axes)

    def alone(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for one sequence, without the axis B, as files have it."""
        shape = self.shape(sizes)
        return shape[: self.batch_axis] + shape[self.batch_axis + 1 :]


@dataclass(frozen=True, eq=False)
class RecurrentState:
    """The recurrent state of B sequences, float32: arrays in the order of `spec`, each also by its name, `state.wkv`.

    A step returns a new one and leaves this one as it was. Gives up: growing arrays of different lengths side by side.
    """

    spec: tuple[StateArray, ...]
    arrays: tuple[NDArray[np.float32], ...]

    @classmethod
    def zeros(cls, spec: Sequence[StateArray], sizes: Mapping[str, int], batch: int = 1) -> RecurrentState:
        return cls(tuple(spec), tuple(np.zeros(array.shape(sizes, batch), np.float32) for array in spec))

    @classmethod
    def side_by_side(cls, states: Sequence[RecurrentState]) -> RecurrentState:
        """One state with the sequences of all states, in their order."""
        spec = states[0].spec
        parts = zip(spec, zip(*(state.arrays for state in states), strict=True), strict=True)
        return cls(spec, tuple(np.concatenate(arrays, axis=array.batch_axis) for array, arrays in parts))

    def __getattr__(self, name: str) -> NDArray[np.float32]:
        if name not in ("spec", "arrays"):  # these are missing while an object is being unpickled
            for array, values in zip(self.spec, self.arrays, strict=True):
                if array.name == name:
                    return values
        raise AttributeError(name)

    def named(self) -> dict[str, NDArray[np.float32]]:
        return {array.name: values for array, values in zip(self.spec, self.arrays, strict=True)}

    @property
    def batch(self) -> int:
        return self.arrays[0].shape[self.spec[0].batch_axis]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.arrays)

    def map(self, change: Callable[[NDArray[np.float32]], NDArray[Any]]) -> RecurrentState:
        """A state with the results of `change` for each array."""
        return RecurrentState(self.spec, tuple(map(change, self.arrays)))

    def copy(self) -> RecurrentState:
        return self.map(lambda array: array.copy())

    def put(self, slots: Sequence[int], values: RecurrentState) -> None:
        """Write sequence i of `values` to place `slots[i]` of this state, in place."""
        for array, own, new in zip(self.spec, self.arrays, values.arrays, strict=True):
            np.moveaxis(own, array.batch_axis, 0)[list(slots)] = np.moveaxis(new, array.batch_axis, 0)

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> RecurrentState:
        """A copy of the sequences named by `indices`, in that order: keep those that still run, or repeat one."""
        chosen = np.asarray(indices, dtype=np.intp)
        parts = zip(self.spec, self.arrays, strict=True)
        return RecurrentState(self.spec, tuple(np.take(values, chosen, axis=array.batch_axis) for array, values in parts))
