"""One table of 2**bits values for each row: non-uniform codes as in SqueezeLLM and LNQ.

Decoded weights are float32 and defined to the last bit: row_scale * table entry. There is no native product: engines get decoded weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig
from rwkvquant.codecs.packing import Arrays, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.kernels import tiles

BITS = range(2, 5)
LARGEST_ENTRY = 127


@dataclass(frozen=True)
class RowTablesConfig(CodecConfig):
    """A table of 2**bits whole numbers and a float16 scale for each row."""

    bits: int = 3

    def __post_init__(self) -> None:
        require("bits", self.bits, BITS)


@dataclass(frozen=True)
class RowTablesTensor:
    """codes (rows, cols) uint8 below 2**bits; tables (rows, 2**bits) int8; row_scale (rows,) float16."""

    codes: NDArray[np.uint8]
    tables: NDArray[np.int8]
    row_scale: NDArray[np.float16]

    @property
    def bits(self) -> int:
        return self.tables.shape[1].bit_length() - 1

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        values = self.row_scale.astype(np.float32)[:, None] * self.tables.astype(np.float32)
        return np.take_along_axis(values, self.codes.astype(np.intp), axis=1)


class RowTablesCodec(Codec):
    """rowtables{2..4}.rows: codes row by row, then tables, then scales."""

    name, kind = "rowtables", "codebook"
    config, tensor = RowTablesConfig, RowTablesTensor
    layouts = tuple(f"rowtables{bits}.rows" for bits in BITS)

    def packing(self, config: RowTablesConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"rowtables{config.bits}.rows", shape)

    def packing_of(self, tensor: RowTablesTensor) -> Packing:
        return Packing(f"rowtables{tensor.bits}.rows", tensor.shape)

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), bits = packing.shape, packing.bits
        return {
            "codes": (np.uint8, rows * tiles.row_bytes(cols, bits)),
            "tables": (np.int8, rows << bits),
            "row_scale": (np.float16, rows),
        }

    def pack(self, packing: Packing, tensor: RowTablesTensor) -> dict[str, NDArray[Any]]:
        return {"codes": tiles.pack_rows(tensor.codes, packing.bits), "tables": tensor.tables.reshape(-1), "row_scale": tensor.row_scale}

    def unpack(self, packing: Packing, arrays: Arrays) -> RowTablesTensor:
        (rows, cols), bits = packing.shape, packing.bits
        tables = arrays["tables"][: rows << bits].reshape(rows, 1 << bits)
        return RowTablesTensor(tiles.unpack_rows(arrays["codes"], rows, cols, bits), tables, arrays["row_scale"][:rows])


register(RowTablesCodec())
