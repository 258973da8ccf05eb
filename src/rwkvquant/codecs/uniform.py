"""Uniform grids ("SQ" in RWKVQuant), which RTN and GPTQ round to.

Decoded weights are float32 and defined to the last bit, in this order of operations:

    (row_scale * scale_code) * (code - zero)      or      scale * (code - zero)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import LEAN, Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing, pad
from rwkvquant.codecs.registry import register
from rwkvquant.config import SCALE_BITS, require
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import gemv_uniform, tiles
from rwkvquant.kernels.product import float_product, int8_product

TILINGS = ("t16x64", "t16x32", "rows")
GROUP_MULTIPLE = 32
MAX_GROUP_SIZE = 1 << 20
MEAN_SCALE_CODE = 96.0  # random scale codes are drawn from 64 to 127


@dataclass(frozen=True)
class GridConfig(CodecConfig):
    """A uniform grid for each group of a row.

    scale_bits 8: a uint8 scale for each group and a float16 scale for each row. 16: a float16 scale for each group.
    """

    bits: int = 3
    group_size: int = 64
    symmetric: bool = False
    scale_bits: int = 8

    def __post_init__(self) -> None:
        require("bits", self.bits, range(1, 9))
        require("scale_bits", self.scale_bits, SCALE_BITS)
        if self.group_size < 1:
            raise ConfigError(f"group_size must be at least 1; got {self.group_size}")

    @property
    def nominal_bits(self) -> float:
        """16 bits for each group, as RWKVQuant counts."""
        return self.bits + 16 / self.group_size


@dataclass(frozen=True)
class UniformTensor:
    """A uniform grid for each group of a row ("SQ" in RWKVQuant).

    codes (rows, cols) uint8 below 2**bits; zeros (rows, groups) uint8 below 2**bits, or None for a symmetric grid, whose
    zero is 2**(bits-1). Scales are either `scales` (rows, groups) float16, or `scale_codes` (rows, groups) uint8 times
    `row_scale` (rows,) float16.
    """

    codes: NDArray[np.uint8]
    bits: int
    group_size: int
    zeros: NDArray[np.uint8] | None = None
    scales: NDArray[np.float16] | None = None
    scale_codes: NDArray[np.uint8] | None = None
    row_scale: NDArray[np.float16] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def group_scales(self) -> NDArray[np.float32]:
        """(rows, groups) float32."""
        if self.scales is not None:
            return self.scales.astype(np.float32)
        assert self.scale_codes is not None and self.row_scale is not None
        return self.row_scale.astype(np.float32)[:, None] * self.scale_codes.astype(np.float32)

    def group_zeros(self) -> NDArray[np.float32]:
        """(rows, groups) float32."""
        if self.zeros is None:
            return np.full(self.group_scales().shape, 2 ** (self.bits - 1), np.float32)
        return self.zeros.astype(np.float32)

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        cols = self.codes.shape[1]
        group = np.arange(cols) // self.group_size
        weights = self.codes.astype(np.float32)
        weights -= self.group_zeros()[:, group]
        weights *= self.group_scales()[:, group]
        return weights


class UniformCodec(Codec):
    """uniform{1..8}.t16x64, .t16x32 for matrices; .rows for the embedding and for vectors."""

    name = kind = "uniform"
    config, tensor = GridConfig, UniformTensor
    layouts = tuple(f"uniform{bits}.{tiling}" for bits in range(1, 9) for tiling in TILINGS)
    scales_rows = True
    keys: ClassVar = {"group_size": int, "symmetric": bool, "scale_bits": int}

    def packing(self, config: GridConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        """Tiles have 64 columns if the columns fill an even number of 32-column halves and no group ends inside a tile; else 32."""
        wide = len(shape) == 2 and -(-shape[1] // 32) % 2 == 0 and config.group_size % 64 == 0
        values = {"group_size": config.group_size, "symmetric": config.symmetric, "scale_bits": config.scale_bits}
        return Packing(f"uniform{config.bits}.{'rows' if rows else 't16x64' if wide else 't16x32'}", shape, values)

    def packing_of(self, tensor: UniformTensor) -> Packing:
        config = GridConfig(tensor.bits, tensor.group_size, tensor.zeros is None, 8 if tensor.scales is None else 16)
        return self.packing(config, tensor.shape, rows=False)

    def alternatives(self, usual: Packing) -> tuple[str, ...]:
        return tuple(f"uniform{usual.bits}.{tiling}" for tiling in TILINGS)

    def check(self, packing: Packing) -> None:
        size, scale_bits = packing.values["group_size"], packing.values["scale_bits"]
        multiple = 64 if packing.tiling == "t16x64" else GROUP_MULTIPLE
        if size % multiple or not 0 < size <= MAX_GROUP_SIZE:
            raise FormatError(f"[layout] group_size of {packing.layout} must be a multiple of {multiple}; got {size}. Try group_size=64.")
        if scale_bits not in SCALE_BITS:
            raise FormatError(f"[layout] scale_bits of {packing.layout} must be 8 or 16; got {scale_bits}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), bits, values = packing.shape, packing.bits, packing.values
        groups = -(-cols // values["group_size"])
        stored_rows = rows if packing.by_rows else tiles.padded(rows, tiles.TILE_ROWS)
        codes = rows * tiles.row_bytes(cols, bits) if packing.by_rows else tiles.packed_bytes(rows, cols, bits, packing.tile_cols)
        sizes: dict[str, tuple[Any, int]] = {"codes": (np.uint8, codes)}
        sizes["scales"] = (np.uint8 if values["scale_bits"] == 8 else np.float16, stored_rows * groups)
        if values["scale_bits"] == 8:
            sizes["row_scale"] = (np.float16, stored_rows)
        if not values["symmetric"]:
            sizes["zeros"] = (np.uint8, stored_rows * groups * (8 if packing.by_rows else bits) // 8)
        return sizes

    def pack(self, packing: Packing, tensor: UniformTensor) -> dict[str, NDArray[Any]]:
        scales = tensor.scales if tensor.scales is not None else tensor.scale_codes
        assert scales is not None
        arrays: dict[str, NDArray[Any]] = {}
        if packing.by_rows:
            arrays = {"codes": tiles.pack_rows(tensor.codes, tensor.bits), "scales": scales.reshape(-1)}
        else:
            arrays = {"codes": tiles.pack_tiles(tensor.codes, tensor.bits, packing.tile_cols), "scales": tiles.pack_scales(scales)}
        if tensor.scales is None:
            assert tensor.row_scale is not None
            arrays["row_scale"] = tensor.row_scale if packing.by_rows else tiles.pack_row_scale(tensor.row_scale)
        if tensor.zeros is not None:
            assert int(tensor.zeros.max(initial=0)) >> tensor.bits == 0, f"a zero does not fit in {tensor.bits} bits"
            arrays["zeros"] = tensor.zeros.reshape(-1) if packing.by_rows else tiles.pack_zeros(tensor.zeros, tensor.bits)
        return arrays

    def unpack(self, packing: Packing, arrays: Arrays) -> UniformTensor:
        rows, cols = packing.shape
        bits, groups = packing.bits, -(-cols // packing.values["group_size"])
        zeros: NDArray[np.uint8] | None = arrays.get("zeros")
        if packing.by_rows:
            codes = tiles.unpack_rows(arrays["codes"], rows, cols, bits)
            scales = arrays["scales"][: rows * groups].reshape(rows, groups)
            zeros = None if zeros is None else zeros[: rows * groups].reshape(rows, groups)
        else:
            codes = tiles.unpack_tiles(arrays["codes"], rows, cols, bits, packing.tile_cols)
            scales = tiles.unpack_scales(arrays["scales"], rows, groups)
            zeros = None if zeros is None else tiles.unpack_zeros(zeros, rows, groups, bits)
        return self._tensor(packing, codes, scales, zeros, arrays.get("row_scale"))

    def rows(self, packed: PackedTensor, ids: Sequence[int]) -> NDArray[np.float32]:
        """In the rows layout, only these rows are decoded."""
        packing, arrays = packed.packing, packed.arrays
        if not packing.by_rows:
            return super().rows(packed, ids)
        rows, cols = packing.shape
        chosen = list(ids)

        def part(suffix: str, width: int) -> NDArray[Any]:
            values: NDArray[Any] = arrays[suffix][: rows * width].reshape(rows, width)[chosen]
            return values

        groups = -(-cols // packing.values["group_size"])
        codes = part("codes", tiles.row_bytes(cols, packing.bits))
        codes = tiles.unpack_rows(codes.reshape(-1), len(chosen), cols, packing.bits)
        zeros = part("zeros", groups) if "zeros" in arrays else None
        row_scale = part("row_scale", 1)[:, 0] if "row_scale" in arrays else None
        return self._tensor(packing, codes, part("scales", groups), zeros, row_scale).decode()

    def _tensor(self, packing: Packing, codes: Any, scales: Any, zeros: Any, row_scale: Any) -> UniformTensor:
        common = (codes, packing.bits, packing.values["group_size"], zeros)
        if packing.values["scale_bits"] == 16:
            return UniformTensor(*common, scales=scales)
        return UniformTensor(*common, scale_codes=scales, row_scale=row_scale[: len(codes)])

    def rows_scaled(self, tensor: UniformTensor, factors: NDArray[np.float32]) -> UniformTensor:
        with np.errstate(over="ignore"):
            if tensor.scales is not None:
                return replace(tensor, scales=(tensor.scales.astype(np.float32) * factors[:, None]).astype(np.float16))
            assert tensor.row_scale is not None
            return replace(tensor, row_scale=(tensor.row_scale.astype(np.float32) * factors).astype(np.float16))

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        if suffix == "zeros" and packing.by_rows and int(values.max(initial=0)) >> packing.bits:
            return "zeros", f"fit in {packing.bits} bits"
        return None

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        packing, arrays = packed.packing, packed.arrays
        if packing.by_rows:
            return super().product(packed, x, int8)
        (rows, cols), bits, group_size, tile_cols = packing.shape, packing.bits, packing.values["group_size"], packing.tile_cols
        codes, scales, zeros, row_scale = (arrays.get(suffix) for suffix in ("codes", "scales", "zeros", "row_scale"))
        assert codes is not None and scales is not None

        def gemv(xq: NDArray[np.int8], xscale: NDArray[np.float32], y: NDArray[np.float32]) -> None:
            gemv_uniform.gemv_uniform(codes, scales, row_scale, zeros, xq, xscale, rows, cols, group_size, y, bits, tile_cols)

        if int8:
            return int8_product(gemv, x, rows)
        number, scale = gemv_uniform.whole_numbers(codes, scales, zeros, rows, cols, group_size, bits, tile_cols)
        return float_product(number, scale, row_scale, group_size, x)

    def native(self, packing: Packing) -> NativeForm | None:
        if packing.by_rows:
            return None
        return NativeForm("uniform", {"bits": packing.bits, "tile_cols": packing.tile_cols, **packing.values})

    def native_rows(self, packing: Packing) -> NativeForm | None:
        return NativeForm("rows", {"bits": packing.bits, **packing.values}) if packing.by_rows else None

    def leaning_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float) -> dict[str, NDArray[Any]]:
        """All zeros are the same, a little below the middle of the codes. Of a symmetric grid the zero is half a step above the middle."""
        bits, values = packing.bits, packing.values
        spread = math.sqrt((4.0**bits - 1) / 12)
        if values["symmetric"]:
            return self.random_arrays(rng, packing, deviation)
        arrays = self.random_arrays(rng, packing, deviation * math.sqrt(2))  # which counts on random zeros
        zeros = np.full((packing.shape[0], -(-packing.shape[1] // values["group_size"])), 2**bits // 2 - 1, np.uint8)
        zeros -= np.minimum(zeros, round(LEAN * spread))
        packed = {"zeros": zeros.reshape(-1) if packing.by_rows else tiles.pack_zeros(zeros, bits)}
        return arrays | pad(packed, {"zeros": packing.sizes()["zeros"]})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        bits, values = packing.bits, packing.values
        spread = math.sqrt((4.0**bits - 1) / 12 * (1 if values["symmetric"] else 2))  # of code - zero
        step = 2.0**-bits if deviation is None else deviation / spread
        arrays: dict[str, NDArray[Any]] = {}
        for suffix, (dtype, count) in packing.sizes().items():
            if suffix == "scales" and values["scale_bits"] == 16:
                arrays[suffix] = (step * rng.uniform(0.8, 1.2, count)).astype(dtype)
            elif suffix == "scales":
                arrays[suffix] = 64 + random_bytes(rng, dtype, count, 63)
            elif suffix == "row_scale":
                arrays[suffix] = np.full(count, step / MEAN_SCALE_CODE, dtype)
            else:
                largest = (1 << bits) - 1 if suffix == "zeros" and packing.by_rows else 255  # in tiles, zeros are packed bits
                arrays[suffix] = random_bytes(rng, dtype, count, largest)
        return arrays


register(UniformCodec())
