"""Random packed matrices of every layout that `product` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs import PackedTensor, Packing, PolarConfig
from rwkvquant.kernels import chunks, gemv_polar, gemv_sections, tiles
from rwkvquant.kernels.gemv_sections import WIDTHS

UNIFORM = [(bits, tile_cols) for bits in range(1, 9) for tile_cols in (64, 32)]
CODEBOOKS = [(bits, group_rows) for bits in (2, 3, 4) for group_rows in (2, 4, 8, 16) if 2**bits <= 4 * group_rows]


def random_bytes(rng: np.random.Generator, count: int, below: int = 256) -> NDArray[np.uint8]:
    return rng.integers(0, below, count, dtype=np.uint8)


def row_scales(rng: np.random.Generator, rows: int) -> NDArray[np.float16]:
    """Row scales of whole row-blocks: kernels read those after the last row, which must not change the result."""
    scales = (rng.random(tiles.padded(rows, 16)) + 0.1).astype(np.float16)
    scales[rows:] = np.nan
    return scales


def uniform(
    rows: int,
    cols: int,
    bits: int,
    tile_cols: int = 64,
    group_size: int = 64,
    symmetric: bool = False,
    scale_bits: int = 8,
    seed: int = 0,
) -> PackedTensor:
    """Codes, scales and zeros are random in the padding too."""
    rng = np.random.default_rng([rows, cols, bits, tile_cols, group_size, seed])
    blocks, groups = -(-rows // 16), -(-cols // group_size)
    arrays: dict[str, Any] = {"codes": random_bytes(rng, tiles.packed_bytes(rows, cols, bits, tile_cols))}
    if scale_bits == 8:
        arrays |= {"scales": random_bytes(rng, blocks * groups * 16), "row_scale": row_scales(rng, rows)}
    else:
        arrays["scales"] = rng.random(blocks * groups * 16).astype(np.float16)
    if not symmetric:
        arrays["zeros"] = random_bytes(rng, blocks * groups * 2 * bits)
    values = {"group_size": group_size, "symmetric": symmetric, "scale_bits": scale_bits}
    return PackedTensor(Packing(f"uniform{bits}.t16x{tile_cols}", (rows, cols), values), arrays)


def codebook(rows: int, cols: int, bits: int = 3, group_rows: int = 2, rank: int = 0, shift: int = 8, seed: int = 0) -> PackedTensor:
    rng = np.random.default_rng([rows, cols, bits, group_rows, rank, seed])
    tables = tiles.codebook_bytes(rows, cols, group_rows, 1)
    arrays: dict[str, Any] = {"codes": random_bytes(rng, tiles.packed_bytes(rows, cols, bits, 32)), "row_scale": row_scales(rng, rows)}
    if rank == 0:
        arrays["codebooks"] = random_bytes(rng, tables << bits, 128)
        return PackedTensor(Packing(f"codebook{bits}.t16x32", (rows, cols), {"group_rows": group_rows, "rank": 0, "shift": 0}), arrays)
    arrays["coefficients"] = rng.integers(-128, 128, tables * rank, dtype=np.int8)
    arrays["basis"] = rng.integers(-128, 128, rank << bits, dtype=np.int8)
    values = {"group_rows": group_rows, "rank": rank, "shift": shift}
    return PackedTensor(Packing(f"codebook{bits}.t16x32", (rows, cols), values), arrays)


def pairs(rows: int, cols: int, bits: int = 6, group_rows: int = 16, seed: int = 0) -> PackedTensor:
    rng = np.random.default_rng([rows, cols, bits, group_rows, seed])
    codes = random_bytes(rng, tiles.packed_bytes(rows, -(-cols // 2), bits, 32))
    arrays = {"codes": codes, "codebooks": random_bytes(rng, tiles.pair_codebook_bytes(rows, group_rows, bits), 128)}
    packing = Packing(f"pairs{bits}.t16x32", (rows, cols), {"group_rows": group_rows})
    return PackedTensor(packing, {**arrays, "row_scale": row_scales(rng, rows)})


def polar(rows: int, cols: int, direction_bits: int = 12, magnitude_bits: int = 4, kind: str = "random", seed: int = 0) -> PackedTensor:
    """Codes are random in the padding too."""
    bits = direction_bits + magnitude_bits
    rng = np.random.default_rng([rows, cols, bits, direction_bits, seed])
    words, high = gemv_polar.code_counts(rows, cols, bits)
    arrays = {"codes": rng.integers(0, 1 << 16, words, dtype=np.uint16), "row_scale": row_scales(rng, rows)}
    if high:
        arrays["high"] = random_bytes(rng, high)
    return PackedTensor(PolarConfig(direction_bits, magnitude_bits, kind).packing((rows, cols)), arrays)


def columnwise(rows: int, cols: int, bits: int = 3, seed: int = 0) -> PackedTensor:
    rng = np.random.default_rng([rows, cols, bits, seed])
    table = np.full(64, 127, np.int8)  # what follows the table must not be read
    table[: 1 << bits] = rng.permutation(np.r_[-64, 64, rng.integers(-64, 65, (1 << bits) - 2)])
    col_scale = np.full(tiles.padded(cols, 32), np.nan, np.float16)
    col_scale[:cols] = rng.random(cols)
    codes = random_bytes(rng, chunks.packed_bytes(rows, cols, bits))
    arrays = {"codes": codes, "table": table, "row_scale": row_scales(rng, rows), "col_scale": col_scale}
    return PackedTensor(Packing(f"columnwise{bits}.r512", (rows, cols)), arrays)


def sections(rows: int, cols: int, widths: tuple[int, ...] = (2, 3, 4, 6), seed: int = 0) -> PackedTensor:
    """Columns of these widths, in no order."""
    rng = np.random.default_rng([rows, cols, *widths, seed])
    of_columns = rng.choice(np.array(widths, np.uint8), cols)
    tables = np.full(64, 127, np.int8)  # what follows the tables must not be read
    tables[:28] = rng.permutation(np.r_[-64, 64, rng.integers(-64, 65, 26)])
    col_scale = np.full(tiles.padded(cols, 32), np.nan, np.float16)
    col_scale[:cols] = rng.random(cols)
    counts = {width: int((of_columns == width).sum()) for width in WIDTHS}
    codes = random_bytes(rng, gemv_sections.packed_bytes(rows, counts))
    arrays = {"codes": codes, "widths": of_columns, "tables": tables, "row_scale": row_scales(rng, rows), "col_scale": col_scale}
    return PackedTensor(Packing("sections.r512", (rows, cols), {f"cols{width}": count for width, count in counts.items()}), arrays)


def dense(rows: int, cols: int, bits: int = 16, seed: int = 0) -> PackedTensor:
    values = np.random.default_rng([rows, cols, bits, seed]).standard_normal(rows * cols)
    return PackedTensor(Packing(f"dense.f{bits}", (rows, cols)), {"values": values.astype(np.float16 if bits == 16 else np.float32)})


def bfloat(rows: int, cols: int, seed: int = 0) -> PackedTensor:
    values = np.random.default_rng([rows, cols, seed]).standard_normal(rows * cols).astype(np.float32)
    return PackedTensor(Packing("dense.bf16", (rows, cols)), {"values": (values.view(np.uint32) >> 16).astype(np.uint16)})


def fields(matrix: PackedTensor, **changes: Any) -> dict[str, Any]:
    """The arguments of `native.Matrix`, with some changes."""
    form = matrix.native_form()
    assert form is not None
    arguments = form.arguments(matrix)
    named = {name: changes.pop(name) for name in ("codec", "rows", "cols", "arrays") if name in changes}
    return {**arguments, **named, "numbers": {"rank": 0, "shift": 0, **arguments["numbers"], **changes}}


def every_layout(rows: int, cols: int) -> list[PackedTensor]:
    """One matrix of each layout and width, with different side information."""
    grids = [(False, 8), (True, 16), (False, 16), (True, 8)]
    result = []
    for at, (bits, tile_cols) in enumerate(UNIFORM):
        symmetric, scale_bits = grids[(at + at // 4) % 4]
        for group_size in (64, 128, 1 << 20) if tile_cols == 64 else (32, 64, 96, 160):
            result.append(uniform(rows, cols, bits, tile_cols, group_size, symmetric, scale_bits))
    for bits, group_rows in CODEBOOKS:
        result += [
            codebook(rows, cols, bits, group_rows, rank, shift) for rank, shift in ((0, 0), (1, 0), (3, 9), (4, 8), (5, 10), (8, 14))
        ]
    result += [pairs(rows, cols, bits, group_rows) for bits in range(4, 9) for group_rows in (16, 48)]
    result += [polar(rows, cols, *bits) for bits in ((12, 4), (15, 1), (13, 3), (15, 2), (14, 4), (16, 4))]
    return [*result, dense(rows, cols, 16), dense(rows, cols, 32), bfloat(rows, cols)]


def name(matrix: PackedTensor) -> str:
    rows, cols = matrix.shape
    return f"{matrix.layout}{tuple(matrix.packing.values.values())} {rows}x{cols}"
