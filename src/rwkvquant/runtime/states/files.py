"""The state of a model, which is all that it remembers of what it has read. Its size does not depend on how much that was.

On disk it is a .safetensors file with the arrays that the architecture names (of one sequence, so without the axis B) and the metadata
{"rwkvquant_state": "0", "arch": ...}. Pickle is not used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rwkvquant.architectures import ARCHITECTURES, Architecture, Dims, architecture
from rwkvquant.errors import FormatError, RwkvQuantError
from rwkvquant.formats.disk import atomic_write
from rwkvquant.kernels.state import RecurrentState

VERSION = "0"
SAVED_KEY = "rwkvquant_state"  # in the metadata, with the version as its value


@dataclass(frozen=True)
class State:
    """The state of one sequence, for callers: it can be copied, saved and loaded. No call changes the state it is given.

    `recurrent` has the arrays, a batch of one; the architecture says what they are.
    """

    arch: str
    recurrent: RecurrentState

    def copy(self) -> State:
        return State(self.arch, self.recurrent.copy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file. Raises FormatError if it cannot be written; a file that had this name before is then still there."""
        parts = zip(self.recurrent.spec, self.recurrent.arrays, strict=True)
        arrays = {array.name: np.ascontiguousarray(np.take(values, 0, axis=array.batch_axis)) for array, values in parts}
        try:
            with atomic_write(Path(path), advice="make room and save again") as file:
                file.write(save(arrays, {SAVED_KEY: VERSION, "arch": self.arch}))
        except RwkvQuantError as error:
            raise FormatError(f"the state is not saved: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read a file that `save` wrote. Raises FormatError for any other file, and for one that is damaged."""
        if not Path(path).is_file():
            raise FormatError(f"{path}: there is no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                own = ARCHITECTURES.get(metadata.get("arch", ""))
                if metadata.get(SAVED_KEY) != VERSION or own is None or names != {array.name for array in own.state}:
                    raise FormatError(f"{path}: this is not a saved state of version {VERSION}, or its architecture is not known")
                arrays = {array.name: file.get_tensor(array.name) for array in own.state}
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: this is not a saved state, which is a .safetensors file ({error})") from None
        shapes = {name: array.shape for name, array in arrays.items()}
        if any(array.dtype != np.float32 for array in arrays.values()) or not _fit(own, shapes):
            raise FormatError(f"{path}: the arrays of this saved state do not fit together: {shapes}")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise FormatError(f"{path}: the values of a state must be finite; this one has NaN or infinity")
        recurrent = RecurrentState(own.state, tuple(np.expand_dims(arrays[array.name], array.batch_axis) for array in own.state))
        return cls(own.name, recurrent)

    def require(self, arch: str, dims: Dims) -> None:
        """Raises FormatError unless this is a state of a model of that architecture and size."""
        wanted = _axes(architecture(arch), {array.name: array.alone(dims.by_symbol()) for array in architecture(arch).state})
        parts = zip(self.recurrent.spec, self.recurrent.arrays, strict=True)
        own = _axes(architecture(self.arch), {array.name: np.take(values, 0, array.batch_axis).shape for array, values in parts})
        if self.arch != arch or own != wanted:
            raise FormatError(
                f"a state fits only its own model; this one is of {_model(self.arch, own)}, the model is {_model(arch, wanted)}"
            )


def _model(arch: str, sizes: dict[str, int] | None) -> str:
    """ "rwkv7 with L=4, C=128"."""
    return f"{arch} with {', '.join(f'{axis}={size}' for axis, size in (sizes or {}).items())}"


def _axes(architecture: Architecture, shapes: dict[str, tuple[int, ...]]) -> dict[str, int] | None:
    """The sizes of a state by their symbols, without the number of tokens read; None for arrays that do not fit together."""
    sizes: dict[str, int] = {}
    for array in architecture.state:
        axes = [axis for axis in array.axes if axis != "B"]
        if len(axes) != len(shapes[array.name]):
            return None
        if any(sizes.setdefault(axis, size) != size for axis, size in zip(axes, shapes[array.name], strict=True)):
            return None
    return {axis: size for axis, size in sizes.items() if axis != "T"}


def _fit(architecture: Architecture, shapes: dict[str, tuple[int, ...]]) -> bool:
    axes = _axes(architecture, shapes)
    return axes is not None and architecture.broken_rule(Dims.of_symbols(axes)) is None
