"""The state of a model, which is all that it remembers of what it has read. Its size does not depend on how much that was.

On disk it is a .safetensors file with the arrays that the architecture names (of one sequence, so without the axis B) and the metadata
{"rwkvquant_state": "0", "arch": ...}. A state at rest, in 8 or 4 bits a value, is version 1, and has the parts of each array instead
(kernels/resting.py): "wkv.codes", "wkv.scales", ... and {"rwkvquant_state": "1", "bits": ..., "arch": ...}. Pickle is not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rwkvquant.architectures import ARCHITECTURES, Architecture, Dims, architecture
from rwkvquant.errors import ConfigError, FormatError, RwkvQuantError
from rwkvquant.formats.disk import atomic_write
from rwkvquant.kernels import resting
from rwkvquant.kernels.state import RecurrentState

VERSION, RESTING = "0", "1"
FULL_BITS = 32
LARGEST = 1e30  # larger values could overflow on their way to few bits; those of real models are below 1e5
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

    def packed(self, bits: int = 8) -> PackedState:
        """This state at rest, in 8 or 4 bits a value (kernels/resting.py).

        Raises ConfigError for other bits, FormatError for a state with NaN, infinity or a value above 1e30.
        """
        checked_bits(bits)
        if not all((np.abs(values) <= LARGEST).all() for values in self.recurrent.arrays):
            raise FormatError(f"a state that is packed has finite values up to {LARGEST:g}; this one has NaN, infinity or a larger one")
        arrays: dict[str, NDArray[Any]] = {}
        for array, values in zip(self.recurrent.spec, self.recurrent.arrays, strict=True):
            parts = resting.pack_array(array, np.take(values, 0, axis=array.batch_axis), bits)
            arrays |= {f"{array.name}.{name}": part for name, part in parts.items()}
        return PackedState(self.arch, bits, arrays)

    def save(self, path: str | os.PathLike[str], bits: int = FULL_BITS) -> None:
        """Write the file: every bit of the state, or with 8 or 4 bits as `packed(bits)` has it, in a quarter or a seventh of the bytes.

        Raises ConfigError for other bits, and FormatError if it cannot be written; a file that had this name before is then still there.
        """
        if bits != FULL_BITS:
            self.packed(bits).save(path)
            return
        parts = zip(self.recurrent.spec, self.recurrent.arrays, strict=True)
        arrays = {array.name: np.ascontiguousarray(np.take(values, 0, axis=array.batch_axis)) for array, values in parts}
        _write(path, arrays, {SAVED_KEY: VERSION, "arch": self.arch})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read a file that `save` wrote, with any bits. Raises FormatError for any other file, and for one that is damaged."""
        read = _read(path)
        return read.state() if isinstance(read, PackedState) else read

    def require(self, arch: str, dims: Dims) -> None:
        """Raises FormatError unless this is a state of a model of that architecture and size."""
        wanted = _axes(architecture(arch), {array.name: array.alone(dims.by_symbol()) for array in architecture(arch).state})
        parts = zip(self.recurrent.spec, self.recurrent.arrays, strict=True)
        shapes = {array.name: _without(values.shape, array.batch_axis) for array, values in parts}
        own = _axes(architecture(self.arch), shapes)
        if self.arch != arch or own != wanted:
            raise FormatError(
                f"a state fits only its own model; this one is of {_model(self.arch, own)}, the model is {_model(arch, wanted)}"
            )


@dataclass(frozen=True, eq=False)
class PackedState:
    """A state at rest: a copy of a `State` in 8 or 4 bits a value, for sessions that wait and for files.

    `arrays` has the parts of each array by "name.part", of one sequence. No call changes them.
    """

    arch: str
    bits: int
    arrays: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory and, but for a header below 2 KB, in a file."""
        return sum(part.nbytes for part in self.arrays.values())

    def state(self) -> State:
        """The state, near the one that was packed (docs/methods/state.md)."""
        spec = architecture(self.arch).state
        values = (resting.unpack_array(array, _parts(self.arrays, array.name), self.bits) for array in spec)
        return State(self.arch, RecurrentState(spec, tuple(np.expand_dims(v, a.batch_axis) for a, v in zip(spec, values, strict=True))))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file. Raises FormatError if it cannot be written; a file that had this name before is then still there."""
        _write(path, self.arrays, {SAVED_KEY: RESTING, "arch": self.arch, "bits": str(self.bits)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PackedState:
        """Read a file that was saved with 8 or 4 bits, to the bit. Raises FormatError for any other file."""
        read = _read(path)
        if isinstance(read, State):
            raise FormatError(f"{path}: this state is saved in {FULL_BITS} bits a value, not at rest; read it with State.load")
        return read


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of one of a batch."""
    return (*shape[:axis], *shape[axis + 1 :])


def checked_bits(bits: int) -> int:
    """Raises ConfigError unless states can be packed in so many bits a value."""
    if isinstance(bits, bool) or bits not in resting.BITS:
        raise ConfigError(f"a state is packed in {' or '.join(map(str, resting.BITS))} bits a value; got {bits!r}")
    return bits


def _write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    try:
        with atomic_write(Path(path), advice="make room and save again") as file:
            file.write(save(dict(arrays), metadata))
    except RwkvQuantError as error:
        raise FormatError(f"the state is not saved: {error}") from None


def _read(path: str | os.PathLike[str]) -> State | PackedState:
    """What the file has. Raises FormatError for anything that `_write` did not write."""
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            own, version = ARCHITECTURES.get(metadata.get("arch", "")), metadata.get(SAVED_KEY)
            bits = next((bits for bits in resting.BITS if metadata.get("bits") == str(bits)), FULL_BITS)
            wanted = _names(own, FULL_BITS if version == VERSION else bits) if own is not None else set()
            if own is None or version not in (VERSION, RESTING) or (version == RESTING and bits == FULL_BITS) or names != wanted:
                raise FormatError(
                    f"{path}: this is not a saved state of version {VERSION} or {RESTING} (with 8 or 4 bits), "
                    "or its architecture is not known"
                )
            arrays = {name: file.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: this is not a saved state, which is a .safetensors file ({error})") from None
    return _full(path, own, arrays) if version == VERSION else _resting(path, own, bits, arrays)


def _full(path: str | os.PathLike[str], own: Architecture, arrays: dict[str, NDArray[Any]]) -> State:
    shapes = {name: array.shape for name, array in arrays.items()}
    if any(array.dtype != np.float32 for array in arrays.values()) or not _fit(own, shapes):
        raise _no_fit(path, shapes)
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FormatError(f"{path}: the values of a state must be finite; this one has NaN or infinity")
    return State(own.name, RecurrentState(own.state, tuple(np.expand_dims(arrays[a.name], a.batch_axis) for a in own.state)))


def _resting(path: str | os.PathLike[str], own: Architecture, bits: int, arrays: dict[str, NDArray[Any]]) -> PackedState:
    """Every part is tested, so that `PackedState.state` gives finite values."""
    kinds = {name: (part.dtype.type, part.shape) for name, part in arrays.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {}
    for array in own.state:
        parts = _parts(arrays, array.name)
        if any(part.ndim == 0 for name, part in parts.items() if name in ("codes", "left")):
            raise _no_fit(path, kinds)
        shapes[array.name] = resting.shape_from(array, parts)
        described = resting.parts_of(array, shapes[array.name], bits)
        wanted |= {f"{array.name}.{name}": kind for name, kind in described.items()}
    if kinds != wanted or not _fit(own, shapes):
        raise _no_fit(path, kinds)
    for array in own.state:
        parts = _parts(arrays, array.name)
        if not resting.in_range(array, parts, bits):
            raise FormatError(f"{path}: the values of a state must be finite and its codes in their range; those of {array.name} are not")
    return PackedState(own.name, bits, arrays)


def _no_fit(path: str | os.PathLike[str], found: Mapping[str, Any]) -> FormatError:
    return FormatError(f"{path}: the arrays of this saved state do not fit together: {found}")


def _names(own: Architecture, bits: int) -> set[str]:
    """The names of the arrays in a file."""
    if bits == FULL_BITS:
        return {array.name for array in own.state}
    return {f"{array.name}.{part}" for array in own.state for part in resting.part_names(array)}


def _parts(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """The parts of one array, by their own names."""
    return {key[len(name) + 1 :]: part for key, part in arrays.items() if key.startswith(f"{name}.")}


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
