"""Vectors of neighbouring rows in one column, by a table for the whole matrix, and a second table for what the first leaves (VPTQ).

Decoded weights are float32 and defined to the last bit: an entry of the first table, plus one of the second. There is no native product:
engines get decoded weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig
from rwkvquant.codecs.packing import Arrays, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import tiles

LENGTHS = (2, 4, 8)  # rows of a vector
BITS = range(4, 9)  # of a code of the first table: 256 entries of 8 numbers are 4 KiB, and stay in the first cache
RESIDUAL_BITS = range(9)  # 0: there is no second table


@dataclass(frozen=True)
class VectorsConfig(CodecConfig):
    """2**table_bits vectors of `length` float16 numbers for the matrix, and 2**residual_bits for what they leave, if that is above 0."""

    length: int = 4
    table_bits: int = 8
    residual_bits: int = 4

    def __post_init__(self) -> None:
        require("length", self.length, LENGTHS)
        require("table_bits", self.table_bits, tuple(BITS))
        require("residual_bits", self.residual_bits, tuple(RESIDUAL_BITS))

    @property
    def code_bits(self) -> int:
        return (self.table_bits + self.residual_bits) // self.length

    def with_code_bits(self, bits: int) -> VectorsConfig:
        if bits != self.code_bits:
            raise ConfigError(f"these vectors have {self.code_bits} bits a weight; got {bits}")
        return self

    @property
    def nominal_bits(self) -> float:
        return (self.table_bits + self.residual_bits) / self.length


@dataclass(frozen=True)
class VectorsTensor:
    """codes (ceil(rows/length), cols) uint8; table (2**bits, length) float16; residual_codes and residual_table the same, or None.

    If rows is no multiple of `length`, the last vector of a column has components without a weight.
    """

    codes: NDArray[np.uint8]
    table: NDArray[np.float16]
    residual_codes: NDArray[np.uint8] | None
    residual_table: NDArray[np.float16] | None
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.codes.shape[1]

    @property
    def length(self) -> int:
        return self.table.shape[1]

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        vectors = self.table.astype(np.float32)[self.codes]  # (vectors, cols, length)
        if self.residual_codes is not None and self.residual_table is not None:
            vectors = vectors + self.residual_table.astype(np.float32)[self.residual_codes]
        whole = vectors.transpose(0, 2, 1).reshape(-1, self.codes.shape[1])
        return np.ascontiguousarray(whole[: self.rows])


class VectorsCodec(Codec):
    """vectors{2,4,8}.rows: the number is the length of a vector. Codes are those of a matrix with a row for each vector of a column."""

    name, kind = "vectors", "codebook"
    config, tensor = VectorsConfig, VectorsTensor
    layouts = tuple(f"vectors{length}.rows" for length in LENGTHS)
    keys: ClassVar[Mapping[str, type[int]]] = {"table_bits": int, "residual_bits": int}

    def packing(self, config: VectorsConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        values = {"table_bits": config.table_bits, "residual_bits": config.residual_bits}
        return Packing(f"vectors{config.length}.rows", shape, values)

    def packing_of(self, tensor: VectorsTensor) -> Packing:
        tables = tensor.table, tensor.residual_table
        bits, residual_bits = (0 if table is None else len(table).bit_length() - 1 for table in tables)
        return Packing(f"vectors{tensor.length}.rows", tensor.shape, {"table_bits": bits, "residual_bits": residual_bits})

    def check(self, packing: Packing) -> None:
        for key, allowed in (("table_bits", BITS), ("residual_bits", RESIDUAL_BITS)):
            if packing.values[key] not in allowed:
                raise FormatError(f"[layout] {key} of {packing.layout} must be {allowed[0]} to {allowed[-1]}; got {packing.values[key]}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), length = packing.shape, packing.bits
        sizes: dict[str, tuple[Any, int]] = {}
        for prefix, bits in _parts(packing):
            sizes[f"{prefix}codes"] = (np.uint8, -(-rows // length) * tiles.row_bytes(cols, bits))
            sizes[f"{prefix}table"] = (np.float16, length << bits)
        return sizes

    def pack(self, packing: Packing, tensor: VectorsTensor) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        given = {"": (tensor.codes, tensor.table), "residual_": (tensor.residual_codes, tensor.residual_table)}
        for prefix, bits in _parts(packing):
            codes, table = given[prefix]
            assert codes is not None and table is not None
            arrays[f"{prefix}codes"], arrays[f"{prefix}table"] = tiles.pack_rows(codes, bits), table.reshape(-1)
        return arrays

    def unpack(self, packing: Packing, arrays: Arrays) -> VectorsTensor:
        (rows, cols), length = packing.shape, packing.bits
        found: dict[str, Any] = {"residual_codes": None, "residual_table": None}
        for prefix, bits in _parts(packing):
            found[f"{prefix}codes"] = tiles.unpack_rows(arrays[f"{prefix}codes"], -(-rows // length), cols, bits)
            found[f"{prefix}table"] = arrays[f"{prefix}table"][: length << bits].reshape(1 << bits, length)
        return VectorsTensor(**found, rows=rows)


def _parts(packing: Packing) -> list[tuple[str, int]]:
    """What the names of arrays begin with, and the bits of a code."""
    bits, residual_bits = packing.values["table_bits"], packing.values["residual_bits"]
    return [("", bits)] + ([("residual_", residual_bits)] if residual_bits else [])


register(VectorsCodec())
