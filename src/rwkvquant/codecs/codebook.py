"""One-dimensional codebooks ("VQ", d=1), plain or compressed to a low rank.

Decoded weights are float32 and defined to the last bit: row_scale * (centroid - 64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm, random_bytes
from rwkvquant.codecs.packing import Arrays, PackedTensor, Packing, pad
from rwkvquant.codecs.registry import register
from rwkvquant.config import require
from rwkvquant.errors import FormatError
from rwkvquant.kernels import gemv_codebook, tiles
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO
from rwkvquant.kernels.product import float_product, int8_product

GROUP_ROWS = (2, 4, 8, 16)
LANE_ROWS, LANE_BYTES = 4, 16  # a 128-bit lane has 4 rows, and a shuffle looks up their tables in 16 bytes
MAX_RANK = 8
MAX_SHIFT = 14
CENTROID_SPREAD = 37.0  # standard deviation of centroids drawn from 0 to 127
LEANING_CENTROID = 10  # about how far the mean of leaning centroids is from their zero
LARGEST_COEFFICIENT = 127


@dataclass(frozen=True)
class CodebookConfig(CodecConfig):
    """One-dimensional codebooks: 2**bits centroids for each `group_rows` x 32 weights. `rank`: of compressed codebooks, or 0.

    group_rows 1 is for element-wise vectors: 64 neighbours share a codebook.
    """

    bits: int = 3
    group_rows: int = 4
    rank: int = 0

    def __post_init__(self) -> None:
        require("bits", self.bits, (2, 3, 4))
        require("rank", self.rank, range(min(9, 2**self.bits)))  # a table has no more than 2**bits numbers
        require("group_rows", self.group_rows, (1, 4, 8, 16) if self.bits == 4 else (1, 2, 4, 8, 16))

    @property
    def nominal_bits(self) -> float:
        """8 bits for each stored number of a codebook, as RWKVQuant counts."""
        return self.bits + 8 * (self.rank or 2**self.bits) / (self.group_rows * tiles.CODEBOOK_COLS)


@dataclass(frozen=True)
class CodebookFactors:
    """Codebooks compressed to rank R, as whole numbers:

        centroid_k = clamp((sum_r coefficient_r * basis_rk + half) >> shift, -64, 63) + 64        half = 2**(shift-1), or 0 for shift 0

    coefficients (ceil(rows/group_rows), ceil(cols/group_cols), R) int8; basis (R, 2**bits) int8, one for the whole matrix; shift 0..14.
    Kernels and quantisers use this integer definition, so every reader gets the same centroids.
    """

    coefficients: NDArray[np.int8]
    basis: NDArray[np.int8]
    shift: int

    def centroids(self) -> NDArray[np.uint8]:
        """(row blocks, column blocks, 2**bits) in 0..127. |sum| <= R * 2**14, far inside 32 bits."""
        total = self.coefficients.astype(np.int32) @ self.basis.astype(np.int32)
        half = 1 << self.shift >> 1
        return (np.clip((total + half) >> self.shift, -CENTROID_ZERO, 127 - CENTROID_ZERO) + CENTROID_ZERO).astype(np.uint8)


@dataclass(frozen=True)
class CodebookTensor:
    """A one-dimensional codebook of 2**bits centroids for each block of `group_rows` x `group_cols` weights ("VQ", d=1).

    codes (rows, cols) uint8; codebooks (ceil(rows/group_rows), ceil(cols/group_cols), 2**bits) uint8 in 0..127;
    row_scale (rows,) float16. If the codebooks are compressed, `factors` is stored, and codebooks are factors.centroids().
    """

    codes: NDArray[np.uint8]
    bits: int
    codebooks: NDArray[np.uint8]
    row_scale: NDArray[np.float16]
    group_rows: int = 2
    group_cols: int = 32
    factors: CodebookFactors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.codes.shape
        return rows, cols

    def decode(self) -> NDArray[np.float32]:
        """(rows, cols) float32 weights."""
        rows, cols = self.codes.shape
        row_group = np.arange(rows)[:, None] // self.group_rows
        col_group = np.arange(cols)[None, :] // self.group_cols
        centroids = self.codebooks[row_group, col_group, self.codes].astype(np.float32) - CENTROID_ZERO
        return self.row_scale.astype(np.float32)[:, None] * centroids


class CodebookCodec(Codec):
    """codebook{2..4}.t16x32 for matrices; .rows for vectors."""

    name = kind = "codebook"
    config, tensor = CodebookConfig, CodebookTensor
    layouts = tuple(f"codebook{bits}.{tiling}" for bits in (2, 3, 4) for tiling in ("t16x32", "rows"))
    keys: ClassVar = {"group_rows": int, "rank": int, "shift": int}

    def packing(self, config: CodebookConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        values = {"group_rows": 1 if rows else config.group_rows, "rank": config.rank, "shift": 0}
        return Packing(f"codebook{config.bits}.{'rows' if rows else 't16x32'}", shape, values)

    def packing_of(self, tensor: CodebookTensor) -> Packing:
        factors, cols = tensor.factors, tensor.group_cols
        if cols not in (tiles.VECTOR_COLS, tiles.CODEBOOK_COLS):
            raise FormatError(f"[layout] a codebook is for {tiles.CODEBOOK_COLS} columns, or {tiles.VECTOR_COLS} of a vector; got {cols}")
        rank, shift = (0, 0) if factors is None else (len(factors.basis), factors.shift)
        tiling = "rows" if cols == tiles.VECTOR_COLS else "t16x32"
        return Packing(f"codebook{tensor.bits}.{tiling}", tensor.shape, {"group_rows": tensor.group_rows, "rank": rank, "shift": shift})

    def check(self, packing: Packing) -> None:
        layout, (count, rank, shift) = packing.layout, (packing.values[key] for key in self.keys)
        allowed = [n for n in GROUP_ROWS if LANE_ROWS * 2**packing.bits <= LANE_BYTES * n]
        if packing.by_rows:
            allowed = [1]
        if count not in allowed:
            raise FormatError(f"[layout] group_rows of {layout} must be {' or '.join(map(str, allowed))}; got {count}")
        most = 0 if packing.by_rows else MAX_RANK
        if not 0 <= rank <= most:
            raise FormatError(f"[layout] rank of {layout} must be {f'0 to {most}' if most else '0'}; got {rank}")
        most = MAX_SHIFT if rank else 0
        if not 0 <= shift <= most:
            raise FormatError(f"[layout] shift of {layout} of rank {rank} must be {f'0 to {most}' if most else '0'}; got {shift}")

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        (rows, cols), bits, (group_rows, rank, _) = packing.shape, packing.bits, (packing.values[key] for key in self.keys)
        if packing.by_rows:
            tables = rows * -(-cols // tiles.VECTOR_COLS) * 2**bits
            codes = rows * tiles.row_bytes(cols, bits)
            return {"codes": (np.uint8, codes), "codebooks": (np.uint8, tables), "row_scale": (np.float16, rows)}
        sizes: dict[str, tuple[Any, int]] = {"codes": (np.uint8, tiles.packed_bytes(rows, cols, bits, tiles.CODEBOOK_COLS))}
        if rank:
            sizes["coefficients"] = (np.int8, tiles.codebook_bytes(rows, cols, group_rows, rank))
            sizes["basis"] = (np.int8, rank * 2**bits)
        else:
            sizes["codebooks"] = (np.uint8, tiles.codebook_bytes(rows, cols, group_rows, 2**bits))
        return sizes | {"row_scale": (np.float16, tiles.padded(rows, tiles.TILE_ROWS))}

    def pack(self, packing: Packing, tensor: CodebookTensor) -> dict[str, NDArray[Any]]:
        if packing.by_rows:
            assert int(tensor.codebooks.max(initial=0)) < 128, "a centroid does not fit in 7 bits"
            codes = tiles.pack_rows(tensor.codes, tensor.bits)
            return {"codes": codes, "codebooks": tensor.codebooks.reshape(-1), "row_scale": tensor.row_scale}
        arrays: dict[str, NDArray[Any]] = {"codes": tiles.pack_tiles(tensor.codes, tensor.bits, tiles.CODEBOOK_COLS)}
        if tensor.factors is None:
            arrays["codebooks"] = tiles.pack_codebooks(tensor.codebooks, tensor.group_rows)
        else:
            assert np.array_equal(tensor.codebooks, tensor.factors.centroids()), "codebooks are not those of their factors"
            arrays["coefficients"] = tiles.pack_tables(tensor.factors.coefficients, tensor.group_rows)
            arrays["basis"] = tensor.factors.basis.reshape(-1)
        return arrays | {"row_scale": tiles.pack_row_scale(tensor.row_scale)}

    def unpack(self, packing: Packing, arrays: Arrays) -> CodebookTensor:
        (rows, cols), bits, entries = packing.shape, packing.bits, 2**packing.bits
        group_rows, rank, shift = (packing.values[key] for key in self.keys)
        row_scale = arrays["row_scale"][:rows]
        if packing.by_rows:
            codes, groups = tiles.unpack_rows(arrays["codes"], rows, cols, bits), -(-cols // tiles.VECTOR_COLS)
            books = arrays["codebooks"][: rows * groups * entries].reshape(rows, groups, entries)
            return CodebookTensor(codes, bits, books, row_scale, 1, tiles.VECTOR_COLS)
        codes = tiles.unpack_tiles(arrays["codes"], rows, cols, bits, tiles.CODEBOOK_COLS)
        if rank:
            coefficients = tiles.unpack_tables(arrays["coefficients"], rows, cols, group_rows, rank)
            factors = CodebookFactors(coefficients, arrays["basis"][: rank * entries].reshape(rank, entries), shift)
            return CodebookTensor(codes, bits, factors.centroids(), row_scale, group_rows, tiles.CODEBOOK_COLS, factors)
        books = tiles.unpack_codebooks(arrays["codebooks"], rows, cols, group_rows, entries)
        return CodebookTensor(codes, bits, books, row_scale, group_rows, tiles.CODEBOOK_COLS)

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        return centroid_rule(suffix, values)

    def product(self, packed: PackedTensor, x: NDArray[np.float32], int8: bool) -> NDArray[np.float32]:
        packing, arrays = packed.packing, packed.arrays
        if packing.by_rows:
            return super().product(packed, x, int8)
        (rows, cols), bits, (group_rows, rank, shift) = packing.shape, packing.bits, (packing.values[key] for key in self.keys)
        codes, row_scale, books = arrays["codes"], arrays["row_scale"], arrays.get("codebooks")
        if books is None:
            factors = arrays["coefficients"], arrays["basis"], shift
            books = gemv_codebook.expand_codebooks(*factors, rows, cols, bits, group_rows, rank)

        def gemv(xq: NDArray[np.int8], xscale: NDArray[np.float32], y: NDArray[np.float32]) -> None:
            gemv_codebook.gemv_codebook(codes, books, row_scale, xq, xscale, rows, cols, y, bits, group_rows)

        if int8:
            return int8_product(gemv, x, rows)
        return float_product(gemv_codebook.whole_numbers(codes, books, rows, cols, bits, group_rows), None, row_scale, 0, x)

    def native(self, packing: Packing) -> NativeForm | None:
        return None if packing.by_rows else NativeForm("codebook", {"bits": packing.bits, **packing.values})

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        step = 2.0**-packing.bits if deviation is None else deviation / CENTROID_SPREAD
        return random_tables(rng, packing, step)

    def leaning_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float) -> dict[str, NDArray[Any]]:
        """All tables have the same mean. Of compressed ones the first basis and its coefficients are constant; the others add up to 0."""
        arrays = self.random_arrays(rng, packing, deviation)
        (rows, cols), entries = packing.shape, 2**packing.bits
        group_rows, rank, shift = (packing.values[key] for key in self.keys)
        if packing.by_rows:
            return arrays
        if rank:
            basis = rng.integers(-127, 128, (rank, entries)).astype(np.int8)
            basis[:, entries // 2 :] = -basis[:, : entries // 2]
            basis[0] = basis[0] // 2 if rank == 1 else 0  # a single basis also has what differs
            basis[0] += min(63, round(LEANING_CENTROID * 2.0**shift / LARGEST_COEFFICIENT))
            arrays["coefficients"] = arrays["coefficients"].copy()  # random bytes cannot be written to
            arrays["coefficients"][::rank] = LARGEST_COEFFICIENT
            return arrays | pad({"basis": basis.reshape(-1)}, {"basis": packing.sizes()["basis"]})
        books = leaning_centroids(rng, (-(-rows // group_rows), -(-cols // tiles.CODEBOOK_COLS), entries))
        return arrays | pad({"codebooks": tiles.pack_codebooks(books, group_rows)}, {"codebooks": packing.sizes()["codebooks"]})


def centroid_rule(suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
    """See `Codec.broken_rule`."""
    return ("centroids", "be 0 to 127") if suffix == "codebooks" and values.max(initial=0) > 127 else None


def random_tables(rng: np.random.Generator, packing: Packing, step: float) -> dict[str, NDArray[Any]]:
    """Random codes and centroids; every row scale is `step`."""
    return {
        suffix: np.full(count, step, dtype)
        if suffix == "row_scale"
        else random_bytes(rng, dtype, count, 127 if suffix == "codebooks" else 255)
        for suffix, (dtype, count) in packing.sizes().items()
    }


def leaning_centroids(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(..., entries) random centroids. The second half of each table mirrors the first, so all tables have the same mean."""
    lowest = 2 * LEANING_CENTROID
    half = rng.integers(lowest, 128, (*shape[:-1], shape[-1] // 2), np.uint8)
    return np.concatenate([half, lowest + 127 - half], axis=-1)


register(CodebookCodec())
