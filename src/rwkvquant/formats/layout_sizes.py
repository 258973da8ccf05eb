"""Layout ids, their parameters, and the exact size of every array: all that is known of a layout without data.

`expected_arrays` is the one place that knows sizes: packing, unpacking, the reader's checks and the planned ledger all ask it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkvquant.codecs import GridConfig
from rwkvquant.errors import FormatError
from rwkvquant.kernels import tiles

ALIGNMENT = 64
GROUP_MULTIPLE = 32
MAX_GROUP_SIZE = 1 << 20
MAX_DIM = 1 << 31
MAX_NDIM = 4
MAX_RANK = 8
MAX_SHIFT = 14
CODEBOOK_GROUP_ROWS = (2, 4, 8, 16)
LANE_ROWS, LANE_BYTES = 4, 16  # a 128-bit lane holds 4 rows, and a shuffle finds their tables in 16 bytes

DENSE_TYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32}
_LAYOUT_ID = re.compile(
    r"(uniform[1-8])\.(t16x64|t16x32|rows)|(codebook[2-4])\.(t16x32|rows)|(pairs[4-8])\.(t16x32)|(dense)\.(f16|f32)", re.ASCII
)


@dataclass(frozen=True)
class Layout:
    """A parsed layout id.

    `codec` uniform | codebook | pairs | dense, `bits` of a code (0 if dense), `shape` t16x64 | t16x32 | rows | f16 | f32.
    """

    codec: str
    bits: int
    shape: str

    @property
    def tile_cols(self) -> int:
        """Codes, not weights, across a tile: of pairs, 32 codes are 64 columns."""
        return int(self.shape.removeprefix("t16x"))


@dataclass(frozen=True)
class TensorParams:
    """What a reader must know beside the layout id.

    group_size, symmetric, scale_bits   uniform layouts only
    group_rows                          rows that share a table: codebook (1 in the rows layout) and pairs
    rank, shift                         codebook only: 0, 0, or those of codecs/ CodebookFactors
    """

    shape: tuple[int, ...]
    group_size: int = 0
    symmetric: bool = False
    scale_bits: int = 0
    group_rows: int = 0
    rank: int = 0
    shift: int = 0


def parse_layout(layout_id: str) -> Layout:
    """Raises FormatError for an id this version does not know."""
    match = _LAYOUT_ID.fullmatch(layout_id)
    if match is None:
        raise FormatError(
            f"[layout] {layout_id[:60]!r} is not a layout this version reads (uniform1 to uniform8 .t16x64 .t16x32 .rows, "
            "codebook2 to codebook4 .t16x32 .rows, pairs4 to pairs8 .t16x32, dense.f16 .f32). Try a newer rwkvquant."
        )
    name, shape = (part for part in match.groups() if part)
    codec = name.rstrip("12345678")
    return Layout(codec, int(name[len(codec) :] or 0), shape)


def choose_layout(kind: str, bits: int, shape: tuple[int, ...], group_size: int = 64, rows_layout: bool = False) -> str:
    """The id for a matrix: `kind` uniform | codebook | pairs | dense; `bits` of a code, or 16 | 32 for dense.

    64-column tiles when the columns fill an even number of 32-column halves and no group ends inside a tile; else 32.
    """
    if kind == "dense":
        return f"dense.f{bits}"
    if rows_layout:
        return f"{kind}{bits}.rows"
    if kind != "uniform":
        return f"{kind}{bits}.t16x32"
    halves = -(-shape[1] // 32)
    return f"uniform{bits}.t16x{64 if halves % 2 == 0 and group_size % 64 == 0 else 32}"


def expected_arrays(layout_id: str, params: TensorParams) -> dict[str, tuple[np.dtype[Any], int]]:
    """suffix -> (dtype, elements including padding): what a tensor's arrays must be, from its parameters alone.

    Raises FormatError for shapes, group sizes, ranks and scales that break docs/format.md.
    """
    layout = parse_layout(layout_id)
    _check_params(layout, layout_id, params)
    if layout.codec == "dense":
        return {"values": _aligned(DENSE_TYPES[layout.shape], math.prod(params.shape))}
    rows, cols = params.shape
    codes_wide = -(-cols // 2) if layout.codec == "pairs" else cols
    if layout.shape == "rows":
        stored_rows, codes = rows, rows * tiles.row_bytes(codes_wide, layout.bits)
    else:
        stored_rows, codes = tiles.padded(rows, tiles.TILE_ROWS), tiles.packed_bytes(rows, codes_wide, layout.bits, layout.tile_cols)
    arrays = {"codes": _aligned(np.uint8, codes)}
    if layout.codec == "uniform":
        groups = -(-cols // params.group_size)
        arrays["scales"] = _aligned(np.uint8 if params.scale_bits == 8 else np.float16, stored_rows * groups)
    elif params.rank:
        arrays["coefficients"] = _aligned(np.int8, tiles.codebook_bytes(rows, cols, params.group_rows, params.rank))
        arrays["basis"] = _aligned(np.int8, params.rank * 2**layout.bits)
    else:
        arrays["codebooks"] = _aligned(np.uint8, _table_bytes(layout, params))
    if layout.codec != "uniform" or params.scale_bits == 8:
        arrays["row_scale"] = _aligned(np.float16, stored_rows)
    if layout.codec == "uniform" and not params.symmetric:
        arrays["zeros"] = _aligned(np.uint8, stored_rows * groups * (8 if layout.shape == "rows" else layout.bits) // 8)
    return arrays


def check_arrays(layout_id: str, params: TensorParams, found: Mapping[str, tuple[np.dtype[Any], int]]) -> None:
    """Raises FormatError if `found`, suffix -> (dtype, elements), is not what `expected_arrays` says."""
    expected = expected_arrays(layout_id, params)
    if found.keys() != expected.keys():
        raise FormatError(f"[layout] {layout_id} has the arrays {', '.join(expected)}; got {', '.join(found) or 'none'}")
    for suffix, (dtype, count) in expected.items():
        if found[suffix] != (dtype, count):
            rule = f"{suffix} of a {layout_id} tensor of shape {list(params.shape)} must be {count} x {dtype}"
            raise FormatError(f"[layout] {rule}; got {found[suffix][1]} x {found[suffix][0]}")


def stored_bytes(grid: GridConfig, shape: tuple[int, ...], rows_layout: bool = False) -> int:
    """Bytes of a uniform tensor (out, in) in the file, side information and padding included, without any data."""
    layout_id = choose_layout("uniform", grid.bits, shape, grid.group_size, rows_layout)
    return _total(layout_id, TensorParams(tuple(shape), grid.group_size, grid.symmetric, grid.scale_bits))


def stored_bytes_codebook(shape: tuple[int, ...], bits: int = 3, group_rows: int = 2, rank: int = 0, rows_layout: bool = False) -> int:
    """Bytes of a codebook tensor (out, in) in the file; `rank` 0 is without compression, `group_rows` is 1 in the rows layout."""
    layout_id = choose_layout("codebook", bits, shape, rows_layout=rows_layout)
    return _total(layout_id, TensorParams(tuple(shape), group_rows=1 if rows_layout else group_rows, rank=rank))


def stored_bytes_pairs(shape: tuple[int, ...], bits: int, group_rows: int) -> int:
    """Bytes of a tensor (out, in) of pairs in the file; `bits` of the code of one pair."""
    return _total(choose_layout("pairs", bits, shape), TensorParams(tuple(shape), group_rows=group_rows))


def stored_bytes_dense(shape: tuple[int, ...], bits: int = 16) -> int:
    """Bytes of unquantised values in the file; `bits` 16 or 32."""
    return _total(f"dense.f{bits}", TensorParams(tuple(shape)))


def _table_bytes(layout: Layout, params: TensorParams) -> int:
    rows, cols = params.shape
    if layout.codec == "pairs":
        return tiles.pair_codebook_bytes(rows, params.group_rows, layout.bits)
    if layout.shape == "rows":
        return rows * -(-cols // tiles.VECTOR_COLS) * 2**layout.bits
    return tiles.codebook_bytes(rows, cols, params.group_rows, 2**layout.bits)


def _check_params(layout: Layout, layout_id: str, params: TensorParams) -> None:
    axes = MAX_NDIM if layout.codec == "dense" else 2
    right = 1 <= len(params.shape) <= axes and (layout.codec == "dense" or len(params.shape) == axes)
    if not right or not all(1 <= dim <= MAX_DIM for dim in params.shape):
        rule = f"{'at most ' if layout.codec == 'dense' else ''}{axes} axes of at least 1"
        raise FormatError(f"[layout] a {layout_id} tensor has {rule}; got shape {list(params.shape)[:8]}")
    if layout.codec == "uniform":
        _check_grid(layout, layout_id, params)
    elif layout.codec != "dense":
        _check_tables(layout, layout_id, params)


def _check_grid(layout: Layout, layout_id: str, params: TensorParams) -> None:
    size = params.group_size
    if size % GROUP_MULTIPLE or not 0 < size <= MAX_GROUP_SIZE or (layout.shape == "t16x64" and size % 64):
        multiple = 64 if layout.shape == "t16x64" else GROUP_MULTIPLE
        raise FormatError(f"[layout] group_size of {layout_id} must be a multiple of {multiple}; got {size}. Try group_size=64.")
    if params.scale_bits not in (8, 16):
        raise FormatError(f"[layout] scale_bits of {layout_id} must be 8 or 16; got {params.scale_bits}")


def _check_tables(layout: Layout, layout_id: str, params: TensorParams) -> None:
    count, rank = params.group_rows, params.rank
    if layout.codec == "pairs":
        fits, rule = count % tiles.TILE_ROWS == 0 and 0 < count <= MAX_GROUP_SIZE, f"a multiple of {tiles.TILE_ROWS}"
    elif layout.shape == "rows":
        fits, rule = count == 1, "1"
    else:
        allowed = [n for n in CODEBOOK_GROUP_ROWS if LANE_ROWS * 2**layout.bits <= LANE_BYTES * n]
        fits, rule = count in allowed, " or ".join(map(str, allowed))
    if not fits:
        raise FormatError(f"[layout] group_rows of {layout_id} must be {rule}; got {count}")
    most = MAX_RANK if layout.codec == "codebook" and layout.shape != "rows" else 0
    if not 0 <= rank <= most:
        raise FormatError(f"[layout] rank of {layout_id} must be {f'0 to {most}' if most else '0'}; got {rank}")
    most = MAX_SHIFT if rank else 0
    if not 0 <= params.shift <= most:
        raise FormatError(f"[layout] shift of {layout_id} of rank {rank} must be {f'0 to {most}' if most else '0'}; got {params.shift}")


def _aligned(dtype: Any, count: int) -> tuple[np.dtype[Any], int]:
    kind = np.dtype(dtype).newbyteorder("<")
    return kind, tiles.padded(count * kind.itemsize, ALIGNMENT) // kind.itemsize


def _total(layout_id: str, params: TensorParams) -> int:
    return sum(dtype.itemsize * count for dtype, count in expected_arrays(layout_id, params).values())
