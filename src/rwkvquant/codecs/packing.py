"""A packed tensor: the one description of a matrix from the file to the native module.

    Packing        how a tensor is packed, without its data: what the table of a file says about it
    PackedTensor   a packing and its flat arrays, views of the file where there is one

They ask the codec (base.py) for everything that depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.registry import codec_of, codec_of_layout
from rwkvquant.errors import FormatError
from rwkvquant.kernels import tiles

if TYPE_CHECKING:
    from rwkvquant.codecs.base import Codec, NativeForm, QTensor

ALIGNMENT = 64  # the length of every stored array is a multiple of so many bytes
MAX_DIM = 1 << 31
Sizes = dict[str, tuple[np.dtype[Any], int]]
Arrays = Mapping[str, NDArray[Any]]
_BITS = re.compile(r"[a-z_]+([0-9]*)\.", re.ASCII)


@dataclass(frozen=True)
class Packing:
    """How one tensor is packed.

    layout   the layout id, "uniform3.t16x64": codec, bits of a code, and how codes are ordered (the tiling)
    shape    of the decoded tensor: (out, in) for matrices, (1, n) for vectors read by rows, any for dense values
    values   the codec's parameters in the table, by its keys: {"group_size": 64, ...}
    """

    layout: str
    shape: tuple[int, ...]
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def codec(self) -> Codec:
        """Raises FormatError for a layout that is not known."""
        return codec_of_layout(self.layout)

    @property
    def bits(self) -> int:
        """Bits of a code, from the layout id; 0 if that has none."""
        match = _BITS.match(self.layout)
        return int(match[1] or 0) if match else 0

    @property
    def tiling(self) -> str:
        """The part of the layout id after the dot: t16x64 | t16x32 | rows, or another of the codec."""
        return self.layout.partition(".")[2]

    @property
    def by_rows(self) -> bool:
        """Whether rows follow one another, so that one row can be read alone."""
        return self.tiling == "rows"

    @property
    def tile_cols(self) -> int:
        """Codes, not weights, in a row of a tile: of pairs, 32 codes are 64 columns."""
        return int(self.tiling.removeprefix("t16x"))

    def sizes(self) -> Sizes:
        """suffix -> (dtype, elements with padding) of the arrays, from the table alone.

        Raises FormatError for shapes and values that break the codec's rules.
        """
        codec = self.codec
        codec.check_shape(self)
        assert self.values.keys() == codec.keys.keys(), f"{self.layout} has the values {list(codec.keys)}; got {list(self.values)}"
        codec.check(self)
        return aligned(codec.sizes(self))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all arrays, with padding. Raises FormatError as `sizes` does."""
        return sum(dtype.itemsize * count for dtype, count in self.sizes().values())

    def check_arrays(self, given: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
        """Raises FormatError if `given`, suffix -> (dtype, elements), is not what `sizes` says."""
        expected = self.sizes()
        if given.keys() != expected.keys():
            raise FormatError(f"[layout] {self.layout} has the arrays {', '.join(expected)}; got {', '.join(given) or 'none'}")
        for suffix, (dtype, count) in expected.items():
            if given[suffix] != (dtype, count):
                rule = f"{suffix} of a {self.layout} tensor of shape {list(self.shape)} must be {count} x {dtype}"
                raise FormatError(f"[layout] {rule}; got {given[suffix][1]} x {given[suffix][0]}")


@dataclass(frozen=True)
class PackedTensor:
    """A packing and its flat arrays by suffix, as the file has them, padding included."""

    packing: Packing
    arrays: Arrays

    @classmethod
    def pack(cls, tensor: QTensor, layout: str | None = None) -> PackedTensor:
        """`layout` None lets the codec choose. Raises FormatError for a layout that cannot hold this tensor."""
        codec = codec_of(tensor)
        packing = codec.describe(tensor, layout)
        sizes, arrays = packing.sizes(), codec.pack(packing, tensor)
        assert arrays.keys() == sizes.keys()
        return cls(packing, pad(arrays, sizes))

    @property
    def codec(self) -> Codec:
        return self.packing.codec

    @property
    def layout(self) -> str:
        return self.packing.layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.packing.shape

    def check(self) -> None:
        """Raises FormatError if the arrays are not those of the packing."""
        self.packing.check_arrays({suffix: (array.dtype, array.size) for suffix, array in self.arrays.items()})

    def unpack(self) -> QTensor:
        """The logical tensor. Raises FormatError as `check` does."""
        self.check()
        return self.codec.unpack(self.packing, self.arrays)

    def decode(self) -> NDArray[np.float32]:
        """All weights, float32, in the packing's shape."""
        return self.unpack().decode()

    @cached_property
    def decoded(self) -> NDArray[np.float32]:
        """The same, kept: 4 bytes a weight."""
        return self.decode()

    def rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Rows `ids` of a matrix, (len(ids), cols) float32."""
        return self.codec.rows(self, ids)

    def product(self, x: NDArray[np.float32], int8: bool = True) -> NDArray[np.float32]:
        """x (count, cols) -> (count, rows) float32 in NumPy: the definition of the native product. See kernels/product.py."""
        assert x.dtype == np.float32 and x.shape[1] == self.shape[1]
        return self.codec.product(self, x, int8)

    def native_form(self) -> NativeForm | None:
        """What the native module gets for it, or None if it has no product for this layout."""
        return self.codec.native(self.packing)

    def native(self, module: ModuleType) -> Any:
        """The native module's own matrix, which keeps the arrays alive. Raises ValueError for arrays that do not fit.

        None if the module has no product for this layout.
        """
        form = self.native_form()
        if form is None:
            return None
        return module.Matrix(**form.arguments(self))


def aligned(sizes: Mapping[str, tuple[Any, int]]) -> Sizes:
    """suffix -> (dtype, elements): little-endian, and padded to a multiple of 64 bytes."""
    padded: Sizes = {}
    for suffix, (dtype, count) in sizes.items():
        kind = np.dtype(dtype).newbyteorder("<")
        padded[suffix] = kind, tiles.padded(count * kind.itemsize, ALIGNMENT) // kind.itemsize
    return padded


def pad(arrays: Arrays, sizes: Sizes) -> dict[str, NDArray[Any]]:
    """The arrays, filled with zeros up to `sizes`."""
    return {suffix: _pad(arrays[suffix], dtype, count) for suffix, (dtype, count) in sizes.items()}


def _pad(array: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """`array` as `dtype`, with zeros up to `count` elements; `array` itself if nothing changes."""
    assert array.ndim == 1 and np.can_cast(array.dtype, dtype, "equiv") and len(array) <= count
    if len(array) == count and array.dtype == dtype:
        return np.ascontiguousarray(array)
    full = np.zeros(count, dtype)
    full[: len(array)] = array
    return full
