"""Directions and magnitudes (PCDVQ): one code for eight neighbouring columns of a row, a unit vector and a length.

Decoded weights are float32 and defined to the last bit: row_scale * whole number (kernels/gemv_polar.py). The codebook of directions is
the same for all matrices. It is not in the file: every reader makes it (kernels/directions.py), and the file has its CRC-32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import directions, gemv_polar, tiles
from rwkvquant.kernels.directions import KINDS, LENGTH
from rwkvquant.kernels.gemv_polar import LEVELS
from rwkvquant.kernels.product import float_product, int8_product

CODE_BITS = (16, 17, 18, 20)  # of 8 weights


@dataclass(frozen=True)
class PolarConfig(CodecConfig):
    """2**direction_bits directions and 2**magnitude_bits lengths for 8 neighbouring weights, and a float16 scale for each row."""

    direction_bits: int = 14
    magnitude_bits: int = 2
    directions: str = "e8"

    def __post_init__(self) -> None:
        require("direction_bits", self.direction_bits, directions.BITS)
        require("magnitude_bits", self.magnitude_bits, tuple(LEVELS))
        require("directions", self.directions, KINDS)
        if self.vector_bits not in CODE_BITS:
            *most, last = CODE_BITS
            raise ConfigError(
                f"direction_bits and magnitude_bits must add up to {', '.join(map(str, most))} or {last} bits for 8 weights; "
                f"got {self.direction_bits} and {self.magnitude_bits}"
            )

    @property
    def vector_bits(self) -> int:
        """Bits of a code, which is for 8 weights."""
        return self.direction_bits + self.magnitude_bits

    @property
    def code_bits(self) -> int:
        return self.vector_bits // LENGTH

    def with_code_bits(self, bits: int) -> PolarConfig:
        if bits != self.code_bits:
            raise ConfigError(f"directions and magnitudes have {self.code_bits} bits a weight; got {bits}")
        return self

    @property
    def nominal_bits(self) -> float:
        return self.vector_bits / LENGTH


@dataclass(frozen=True)
class PolarTensor:
    """codes (rows, ceil(cols/8)) uint32, direction + 2**direction_bits * level; row_scale (rows,) float16.

    If cols is no multiple of 8, the last code of a row has components without a weight.
    """

    codes: NDArray[np.uint32]
    direction_bits: int
    magnitude_bits: int
    directions: str
    row_scale: NDArray[np.float16]
    cols: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.cols

    @property
    def codebook(self) -> NDArray[np.int8]:
        return directions.directions(self.directions, self.direction_bits)

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        numbers = gemv_polar.numbers(self.codes, self.codebook, self.direction_bits + self.magnitude_bits, self.cols)
        return self.row_scale.astype(np.float32)[:, None] * numbers


@dataclass(frozen=True)
class PolarForm(NativeForm):
    """The native module also gets the levels, and the codebook: one array for all matrices of a process."""

    def arguments(self, packed: PackedTensor) -> dict[str, Any]:
        arguments, levels = super().arguments(packed), LEVELS[self.numbers["bits"] - self.numbers["direction_bits"]]
        arguments["arrays"] |= {"directions": _codebook(packed.packing).reshape(-1), "levels": np.array(levels, np.uint16)}
        return arguments


class PolarCodec(Codec):
    """polar{16,17,18,20}.t16x8: one code for eight neighbouring columns of a row."""

    name, kind = "polar", "codebook"
    config, tensor = PolarConfig, PolarTensor
    layouts = tuple(f"polar{bits}.t16x8" for bits in CODE_BITS)
    keys: ClassVar[Mapping[str, type[int]]] = {"direction_bits": int, "directions": int, "directions_crc32": int}

    def packing(self, config: PolarConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing(f"polar{config.vector_bits}.{'rows' if rows else 't16x8'}", shape, _values(config.direction_bits, config.directions))

    def packing_of(self, tensor: PolarTensor) -> Packing:
        bits = tensor.direction_bits + tensor.magnitude_bits
        return Packing(f"polar{bits}.t16x8", tensor.shape, _values(tensor.direction_bits, tensor.directions))

    def check(self, packing: Packing) -> None:
        bits, kind, crc = (packing.values[key] for key in ("direction_bits", "directions", "directions_crc32"))
        if bits not in directions.BITS or packing.bits - bits not in LEVELS:
            raise FormatError(
                f"[layout] direction_bits of {packing.layout} must be 12 to 16, and 1 to 4 bits less than the code; got {bits}"
            )
        if not 0 <= kind < len(KINDS):
            raise FormatError(f"[layout] directions of {packing.layout} must be 0 to {len(KINDS) - 1}; got {kind}")
        if crc != directions.crc32(KINDS[kind], bits):
            raise FormatError(
                f"[layout] this version makes the directions {KINDS[kind]} of {bits} bits with the CRC-32 "
                f"{directions.crc32(KINDS[kind], bits)}; the file was made with {crc}. Try another version of rwkvquant."
            )

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), bits = packing.shape, packing.bits
        words, high = gemv_polar.code_counts(rows, cols, bits)
        sizes = {"codes": (np.uint16, words), "high": (np.uint8, high), "row_scale": (np.float16, tiles.padded(rows, tiles.TILE_ROWS))}
        return {suffix: size for suffix, size in sizes.items() if size[1]}

    def pack(self, packing: Packing, tensor: PolarTensor) -> dict[str, NDArray[Any]]:
        codes, high = gemv_polar.pack(tensor.codes, packing.bits)
        arrays: dict[str, NDArray[Any]] = {"codes": codes, "high": high, "row_scale": tiles.pack_row_scale(tensor.row_scale)}
        return {suffix: array for suffix, array in arrays.items() if array.size}

    def unpack(self, packing: Packing, arrays: Arrays) -> PolarTensor:
        bits, (rows, cols) = packing.values["direction_bits"], packing.shape
        codes = gemv_polar.unpack(arrays["codes"], arrays.get("high"), rows, cols, packing.bits)
        kind = KINDS[packing.values["directions"]]
        return PolarTensor(codes, bits, packing.bits - bits, kind, arrays["row_scale"][:rows], cols)

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        packing, arrays, (rows, cols) = packed.packing, packed.arrays, packed.shape
        codebook, row_scale = _codebook(packing), arrays["row_scale"]

        def gemv(xq: NDArray[np.int8], xscale: NDArray[np.float32], y: NDArray[np.float32]) -> None:
            gemv_polar.gemv_polar(arrays["codes"], arrays.get("high"), codebook, row_scale, xq, xscale, rows, cols, y, packing.bits)

        if int8:
            return int8_product(gemv, x, rows)
        codes = gemv_polar.unpack(arrays["codes"], arrays.get("high"), rows, cols, packing.bits)
        return float_product(gemv_polar.numbers(codes, codebook, packing.bits, cols), None, row_scale, 0, x)

    def native(self, packing: Packing) -> NativeForm | None:
        return PolarForm("polar", {"bits": packing.bits, "direction_bits": packing.values["direction_bits"]})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        """All codes are as likely. The mean square of a component is that of a level, divided by 8."""
        levels = np.array(LEVELS[packing.bits - packing.values["direction_bits"]]) / (1 << 15) * directions.ONE
        step = (2.0**-2 if deviation is None else deviation) / math.sqrt(float(np.mean(levels**2)) / LENGTH)
        arrays: dict[str, NDArray[Any]] = {}
        for suffix, (dtype, count) in packing.sizes().items():
            arrays[suffix] = (step * rng.uniform(0.8, 1.2, count)).astype(dtype) if dtype.kind == "f" else random_bytes(rng, dtype, count)
        return arrays


def _values(bits: int, kind: str) -> dict[str, int]:
    return {"direction_bits": bits, "directions": KINDS.index(kind), "directions_crc32": directions.crc32(kind, bits)}


def _codebook(packing: Packing) -> NDArray[np.int8]:
    return directions.directions(KINDS[packing.values["directions"]], packing.values["direction_bits"])


register(PolarCodec())
