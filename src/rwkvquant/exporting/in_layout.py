"""The dequantised tensors of a packed file in a layout of checkpoints/names.py: the inverse of `TranslatedFile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.checkpoints.names import NameTable, Place
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile


class Source(Protocol):
    """Tensors by our names, in the checkpoint's shapes."""

    architecture: Architecture
    shapes: dict[str, tuple[int, ...]]

    @property
    def read(self) -> Callable[[str], NDArray[np.float32]]: ...


class InLayout:
    """`shapes`: the layout's name -> shape, for all tensors. A tensor is decoded only when `values` is called.

    Raises ConfigError for a tensor that the layout has no name for, such as a tuned time_state in fla's.
    """

    def __init__(self, source: Source, table: NameTable) -> None:
        self._source, self._table, self._split = source, table, source.architecture.split
        self._held: dict[str, list[str]] = {}  # the layout's name -> our names, in their order inside the tensor
        for name in source.shapes:
            block, _ = self._split(name)
            stored = (f"{table.block}{block}." if block else "") + self._place(name).name
            self._held.setdefault(stored, []).append(name)
        for names in self._held.values():
            names.sort(key=lambda name: self._place(name).conversion.order)
        self.shapes = {stored: self._write(stored, [self._empty(name) for name in names]).shape for stored, names in self._held.items()}

    def values(self, stored: str) -> NDArray[np.float32]:
        """The array of the tensor that has the name `stored` in the layout."""
        return self._write(stored, [self._source.read(name) for name in self._held[stored]])

    def _write(self, stored: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
        return self._place(self._held[stored][0]).conversion.write(arrays)

    def _place(self, name: str) -> Place:
        place = self._table.places.get(self._split(name)[1])
        if place is None:
            raise ConfigError(f"the layout {self._table.name} has no name for {name}; try --layout pth or safetensors")
        return place

    def _empty(self, name: str) -> NDArray[np.uint8]:
        """An array with the shape of the checkpoint's tensor, for `shapes`. It takes one byte of memory; conversions do not copy it."""
        return np.broadcast_to(np.uint8(0), self._source.shapes[name])


class PackedSource:
    """The tensors of a packed file with the names and shapes of the checkpoint, dequantised."""

    def __init__(self, packed: PackedFile) -> None:
        self._packed, self.architecture = packed, packed.architecture
        self._slices = _slices(packed)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, slices in self._slices.items():
            shape = packed.tensors[slices[0]].source_shape
            self.shapes[name] = shape if slices == [name] else (len(slices), *shape)

    def read(self, name: str) -> NDArray[np.float32]:
        parts = []
        for part in self._slices[name]:
            entry, values = self._packed.tensors[part], self._packed.decode(part)
            parts.append((values.T if entry.transposed else values).reshape(entry.source_shape))
        return parts[0] if self._slices[name] == [name] else np.stack(parts)


class CheckpointSource:
    """The tensors of a checkpoint that are used: without the first layer's v0, v1, v2 of RWKV-7."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.architecture = checkpoint.architecture
        self.shapes = {name: checkpoint.tensors[name].shape for name, _, _ in checkpoint.specs()}
        self.read = checkpoint.read


def _slices(packed: PackedFile) -> dict[str, list[str]]:
    """The checkpoint's name -> the packed names: several if the tensor was packed in slices, <name>.0, <name>.1, ..."""
    slices: dict[str, list[str]] = {}
    for name in packed.tensors:
        stem, _, index = name.rpartition(".")
        slices.setdefault(stem if index.isdecimal() else name, []).append(name)
    return slices
