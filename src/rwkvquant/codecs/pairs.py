"""Two-dimensional codebooks ("VQ", d=2): one code for two neighbouring columns of a row.

Decoded weights are float32 and defined to the last bit: row_scale * (component of the centroid - 64).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm
from rwkvquant.codecs.codebook import CENTROID_SPREAD, centroid_rule, leaning_centroids, random_tables
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing, pad
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import gemv_pairs, tiles
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO
from rwkvquant.kernels.product import float_product, int8_product

MAX_GROUP_ROWS = 1 << 20


@dataclass(frozen=True)
class PairConfig(CodecConfig):
    """Two-dimensional codebooks: 2**bits pairs of neighbouring weights for `group_rows` whole rows."""

    bits: int = 6
    group_rows: int = 64

    def __post_init__(self) -> None:
        require("bits", self.bits, range(4, 9))
        if self.group_rows < 16 or self.group_rows % 16:
            raise ConfigError(f"group_rows of pair codebooks must be a multiple of 16; got {self.group_rows}")

    @property
    def code_bits(self) -> int:
        """A code is for two weights."""
        return self.bits // 2

    def with_code_bits(self, bits: int) -> PairConfig:
        return replace(self, bits=2 * bits)

    @property
    def nominal_bits(self) -> float:
        """Bits of codes alone: the cost of a table for each weight depends on the width of the rows."""
        return self.bits / 2


@dataclass(frozen=True)
class PairCodebookTensor:
    """A two-dimensional codebook: one code for two neighbouring columns of a row ("VQ", d=2), 2**bits pairs for `group_rows` rows.

    codes (rows, ceil(cols/2)) uint8; codebooks (ceil(rows/group_rows), 2**bits, 2) uint8 in 0..127, one for all columns of its rows;
    row_scale (rows,) float16; cols is stored because it may be odd, and then the last code has no second weight.
    """

    codes: NDArray[np.uint8]
    bits: int
    codebooks: NDArray[np.uint8]
    row_scale: NDArray[np.float16]
    cols: int
    group_rows: int = 16

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        rows = self.codes.shape[0]
        row_group = np.arange(rows)[:, None] // self.group_rows
        pairs = self.codebooks[row_group, self.codes].astype(np.float32) - CENTROID_ZERO  # (rows, pairs, 2)
        return self.row_scale.astype(np.float32)[:, None] * pairs.reshape(rows, -1)[:, : self.cols]


class PairCodec(Codec):
    """pairs{4..8}.t16x32: one code for two neighbouring columns of a row."""

    name, kind = "pairs", "codebook"
    config, tensor = PairConfig, PairCodebookTensor
    layouts = tuple(f"pairs{bits}.t16x32" for bits in range(4, 9))
    keys: ClassVar = {"group_rows": int}

    def packing(self, config: PairConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"pairs{config.bits}.{'rows' if rows else 't16x32'}", shape, {"group_rows": config.group_rows})

    def packing_of(self, tensor: PairCodebookTensor) -> Packing:
        return Packing(f"pairs{tensor.bits}.t16x32", tensor.shape, {"group_rows": tensor.group_rows})

    def check(self, packing: Packing) -> None:
        count = packing.values["group_rows"]
        if count % tiles.TILE_ROWS or not 0 < count <= MAX_GROUP_ROWS:
            raise FormatError(f"[layout] group_rows of {packing.layout} must be a multiple of {tiles.TILE_ROWS}; got {count}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), bits = packing.shape, packing.bits
        return {
            "codes": (np.uint8, tiles.packed_bytes(rows, -(-cols // 2), bits, tiles.PAIR_TILE)),
            "codebooks": (np.uint8, tiles.pair_codebook_bytes(rows, packing.values["group_rows"], bits)),
            "row_scale": (np.float16, tiles.padded(rows, tiles.TILE_ROWS)),
        }

    def pack(self, packing: Packing, tensor: PairCodebookTensor) -> dict[str, NDArray[Any]]:
        return {
            "codes": tiles.pack_tiles(tensor.codes, tensor.bits, tiles.PAIR_TILE),
            "codebooks": tiles.pack_pair_codebooks(tensor.codebooks),
            "row_scale": tiles.pack_row_scale(tensor.row_scale),
        }

    def unpack(self, packing: Packing, arrays: Arrays) -> PairCodebookTensor:
        (rows, cols), bits, group_rows = packing.shape, packing.bits, packing.values["group_rows"]
        codes = tiles.unpack_tiles(arrays["codes"], rows, -(-cols // 2), bits, tiles.PAIR_TILE)
        books = tiles.unpack_pair_codebooks(arrays["codebooks"], rows, group_rows, bits)
        return PairCodebookTensor(codes, bits, books, arrays["row_scale"][:rows], cols, group_rows)

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        return centroid_rule(suffix, values)

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        packing, arrays = packed.packing, packed.arrays
        (rows, cols), bits, group_rows = packing.shape, packing.bits, packing.values["group_rows"]
        codes, books, row_scale = arrays["codes"], arrays["codebooks"], arrays["row_scale"]

        def gemv(xq: NDArray[np.int8], xscale: NDArray[np.float32], y: NDArray[np.float32]) -> None:
            gemv_pairs.gemv_pairs(codes, books, row_scale, xq, xscale, rows, cols, y, bits, group_rows)

        if int8:
            return int8_product(gemv, x, rows)
        return float_product(gemv_pairs.whole_numbers(codes, books, rows, cols, bits, group_rows), None, row_scale, 0, x)

    def native(self, packing: Packing) -> NativeForm | None:
        return NativeForm("pairs", {"bits": packing.bits, **packing.values})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        return random_tables(rng, packing, 2.0**-packing.bits if deviation is None else deviation / CENTROID_SPREAD)

    def leaning_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float) -> dict[str, NDArray[Any]]:
        books = leaning_centroids(rng, (-(-packing.shape[0] // packing.values["group_rows"]), 2, 2**packing.bits)).transpose(0, 2, 1)
        packed = {"codebooks": tiles.pack_pair_codebooks(books)}
        return self.random_arrays(rng, packing, deviation) | pad(packed, {"codebooks": packing.sizes()["codebooks"]})


register(PairCodec())
