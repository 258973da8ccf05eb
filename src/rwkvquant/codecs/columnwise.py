"""One table for a whole matrix, scales for rows and columns, and codes stored column by column: for inputs that are mostly zero.

Decoded weights are float32 and defined to the last bit: (row_scale * table entry) * column scale. The first product is exact.

A product skips the columns whose activation is zero, with all their bytes. So the codec is for matrices whose input is a squared ReLU.
Others are refused: its activations are rounded without a sign (kernels/gemv_columnwise.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import FormatError
from rwkvquant.kernels import chunks, tiles
from rwkvquant.kernels.gemv_columnwise import LARGEST_ENTRY, MAX_COLS, float_columnwise, gemv_columnwise

BITS = range(2, 5)


@dataclass(frozen=True)
class ColumnwiseConfig(CodecConfig):
    """A table of 2**bits whole numbers for the matrix, a float16 scale for each row and one for each column."""

    bits: int = 3

    def __post_init__(self) -> None:
        require("bits", self.bits, BITS)


@dataclass(frozen=True)
class ColumnwiseTensor:
    """codes (rows, cols) uint8 below 2**bits; table (2**bits,) int8 in -64..64; row_scale (rows,) and col_scale (cols,) float16.

    Column scales are not negative.
    """

    codes: NDArray[np.uint8]
    table: NDArray[np.int8]
    row_scale: NDArray[np.float16]
    col_scale: NDArray[np.float16]

    @property
    def bits(self) -> int:
        return len(self.table).bit_length() - 1

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        weights = self.row_scale.astype(np.float32)[:, None] * self.table.astype(np.float32)[self.codes]
        weights *= self.col_scale.astype(np.float32)
        return weights


class ColumnwiseCodec(Codec):
    """columnwise{2..4}.r512: chunks of 512 rows, each stored column by column."""

    name, kind = "columnwise", "codebook"
    config, tensor = ColumnwiseConfig, ColumnwiseTensor
    layouts = tuple(f"columnwise{bits}.r512" for bits in BITS)
    nonnegative_input = True

    def packing(self, config: ColumnwiseConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"columnwise{config.bits}.{'rows' if rows else 'r512'}", shape)

    def packing_of(self, tensor: ColumnwiseTensor) -> Packing:
        return Packing(f"columnwise{tensor.bits}.r512", tensor.shape)

    def check(self, packing: Packing) -> None:
        if packing.shape[1] > MAX_COLS:
            raise FormatError(f"[layout] a {packing.layout} tensor has at most {MAX_COLS} columns; got {packing.shape[1]}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        rows, cols = packing.shape
        return {
            "codes": (np.uint8, chunks.packed_bytes(rows, cols, packing.bits)),
            "table": (np.int8, 1 << packing.bits),
            "row_scale": (np.float16, tiles.padded(rows, tiles.TILE_ROWS)),
            "col_scale": (np.float16, cols),
        }

    def pack(self, packing: Packing, tensor: ColumnwiseTensor) -> dict[str, NDArray[Any]]:
        assert np.abs(tensor.table.astype(int)).max() <= LARGEST_ENTRY, f"a table's entries are at most {LARGEST_ENTRY}"
        assert (tensor.col_scale >= 0).all(), "column scales are not negative"
        return {
            "codes": chunks.pack_chunks(tensor.codes, tensor.bits),
            "table": tensor.table,
            "row_scale": tiles.pack_row_scale(tensor.row_scale),
            "col_scale": tensor.col_scale,
        }

    def unpack(self, packing: Packing, arrays: Arrays) -> ColumnwiseTensor:
        (rows, cols), bits = packing.shape, packing.bits
        codes = chunks.unpack_chunks(arrays["codes"], rows, cols, bits)
        return ColumnwiseTensor(codes, arrays["table"][: 1 << bits], arrays["row_scale"][:rows], arrays["col_scale"][:cols])

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        if suffix == "table" and (values.max(initial=0) > LARGEST_ENTRY or values.min(initial=0) < -LARGEST_ENTRY):
            return "table", f"be -{LARGEST_ENTRY} to {LARGEST_ENTRY}"
        if suffix == "col_scale" and (values < 0).any():
            return "col_scale", "be 0 or more"
        return None

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        multiply = gemv_columnwise if int8 else float_columnwise
        codes, table, row_scale, col_scale = (packed.arrays[suffix] for suffix in ("codes", "table", "row_scale", "col_scale"))
        out = np.empty((len(x), packed.shape[0]), np.float32)
        for vector, y in zip(x, out, strict=True):
            multiply(codes, table, row_scale, col_scale, vector, packed.shape[0], y, packed.packing.bits)
        return out

    def native(self, packing: Packing) -> NativeForm | None:
        """`way`: 0 lets the native product choose, 1 and 2 make it sparse or dense, for tests and measurements."""
        return NativeForm("columnwise", {"bits": packing.bits, "way": 0})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        """The table has the middles of equally likely parts of a normal distribution."""
        entries = 1 << packing.bits
        normal = np.array([NormalDist().inv_cdf((entry + 0.5) / entries) for entry in range(entries)])
        table = np.rint(normal * (LARGEST_ENTRY / normal.max())).astype(np.int8)
        step = (2.0**-packing.bits if deviation is None else deviation) / math.sqrt(np.mean(table.astype(float) ** 2))
        arrays: dict[str, NDArray[Any]] = {}
        for suffix, (dtype, count) in packing.sizes().items():
            arrays[suffix] = random_bytes(rng, dtype, count) if suffix == "codes" else np.zeros(count, dtype)
        arrays["table"][:entries] = table
        arrays["row_scale"][:] = step
        arrays["col_scale"][: packing.shape[1]] = rng.uniform(0.9, 1.1, packing.shape[1])
        return arrays


register(ColumnwiseCodec())
