"""What a model remembers of everything it has read: its size does not depend on how much that was.

On disk it is a .safetensors file with the three arrays of kernels/state.py (one sequence, so B is gone) and the metadata
{"rwkvquant_state": "0", "arch": ...}. There is no pickle anywhere near it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rwkvquant.errors import FormatError, RwkvQuantError
from rwkvquant.formats.disk import atomic_write
from rwkvquant.kernels.state import Dims
from rwkvquant.kernels.state import State as Recurrent

VERSION = "0"
AXES = {"att_shift": 2, "ffn_shift": 2, "wkv": 4}


@dataclass(frozen=True)
class State:
    """The state of one sequence; opaque, except that it can be copied, saved and loaded. No call changes the state it is given."""

    arch: str
    recurrent: Recurrent

    def copy(self) -> State:
        return State(self.arch, self.recurrent.copy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Raises FormatError if the file cannot be written; then what lay under its name is still there."""
        arrays = {name: np.ascontiguousarray(getattr(self.recurrent, name)[:, 0]) for name in AXES}
        try:
            with atomic_write(Path(path), advice="make room and save again") as file:
                file.write(save(arrays, {"rwkvquant_state": VERSION, "arch": self.arch}))
        except RwkvQuantError as error:
            raise FormatError(f"the state is not saved: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Raises FormatError for a file that `save` did not write, or that was altered so that it no longer fits together."""
        if not Path(path).is_file():
            raise FormatError(f"{path}: there is no such file of a saved state")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if metadata.get("rwkvquant_state") != VERSION or names != set(AXES):
                    raise FormatError(f"{path}: this is not a saved state of version {VERSION}")
                arrays = {name: file.get_tensor(name) for name in AXES}
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: a saved state is a .safetensors file; this one cannot be read ({error})") from None
        shapes = {name: array.shape for name, array in arrays.items()}
        if any(array.dtype != np.float32 or array.ndim != AXES[name] for name, array in arrays.items()) or not _fit(shapes):
            raise FormatError(f"{path}: the arrays of this state do not fit together: {shapes}")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise FormatError(f"{path}: a state is finite; this one holds NaN or infinity")
        return cls(metadata.get("arch", ""), Recurrent(**{name: array[:, None] for name, array in arrays.items()}))

    def require(self, arch: str, dims: Dims) -> None:
        """Raises FormatError unless this is a state of a model of that architecture and size."""
        own, wanted = self.recurrent.wkv.shape, Recurrent.zeros(dims).wkv.shape
        if self.arch != arch or own != wanted or self.recurrent.att_shift.shape[2] != dims.width:
            raise FormatError(f"a state belongs to one model; this one is {self.arch} {own}, the model {arch} {wanted}")


def _fit(shapes: dict[str, tuple[int, ...]]) -> bool:
    layers, heads, rows, cols = shapes["wkv"]
    return rows == cols and shapes["att_shift"] == shapes["ffn_shift"] == (layers, heads * rows)
