"""The tile: the place of each bit of a packed matrix. Native kernels and docs/format.md follow this definition.

A code of b bits is cut into planes of 1, 2 and 4 bits, low bits first: PLANES[3] = (2, 1) keeps bits 0-1 in a plane of
width 2 and bit 2 in a plane of width 1. A matrix (rows, cols) is padded with code 0 to a multiple of 16 rows and of
`tile_cols` (64 or 32) columns, and stored as row-blocks of 16 rows. A row-block has its tiles from left to right, and a tile
has its planes one after another.

    step j   columns 4j .. 4j+3 of the tile, 16 rows x 4 columns = 64 codes; row r and column 4j + c are at byte 4r + c
    plane    width p: a line of 64 bytes holds 8//p steps, as far apart as the plane has lines: with n = steps * p / 8 lines,
             step j at bytes (j % n) * 64 + byte, shifted left by p * (j // n)

So one 64-byte load has the codes of 8//p steps. After a shift and a mask they are multiplied with four activations, broadcast to
16 rows: one dot-product instruction for 16 rows x 4 columns.

The rows layout is for tables that are read one row at a time (the embedding, element-wise vectors). There are no row-blocks, each
row is padded to a multiple of 64 columns, and column c of a plane is at byte c // (8//p), shifted by p * (c % (8//p)).

Everything is little-endian. `codes` are uint8 (rows, cols) below 2**bits; packed arrays are flat and not yet padded to
64 bytes (codecs/packing.py does that). Unpacking reads the bytes it needs from the start, and ignores the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

PLANES: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (4, 4),
}
TILE_ROWS = 16
TILE_COLS = (64, 32)
STEP_COLS = 4
STEP_BYTES = TILE_ROWS * STEP_COLS
ROW_MULTIPLE = 64  # columns of the rows layout

CODEBOOK_BITS = 3  # of the first codebook layout: tables of 8 centroids
CODEBOOK_ROWS = 2  # rows of one table of that layout
CODEBOOK_COLS = 32  # columns of one table, one tile; the same for all codebooks of single weights
VECTOR_COLS = 64  # columns of one table in the rows layout
PAIR_TILE = 32  # codes in one row of a tile of pairs: 64 columns

_CHUNK_CODES = 1 << 20  # codes packed at once: limits the memory for packing a 65536 x 2048 matrix

Bytes = NDArray[np.uint8]
T = TypeVar("T", np.uint8, np.float16)
Entry = TypeVar("Entry", np.uint8, np.int8)


def padded(count: int, multiple: int) -> int:
    """The smallest multiple that is at least `count`."""
    return -(-count // multiple) * multiple


def packed_bytes(rows: int, cols: int, bits: int, tile_cols: int) -> int:
    """Bytes of the codes of a tiled matrix: 2 * bits bytes for each column of a row-block."""
    return padded(rows, TILE_ROWS) * padded(cols, tile_cols) * bits // 8


def codebook_bytes(rows: int, cols: int, group_rows: int = CODEBOOK_ROWS, entries: int = 2**CODEBOOK_BITS) -> int:
    """Bytes of a tiled matrix's tables, one of `entries` bytes for each group_rows x 32 weights of the padded matrix."""
    return (padded(rows, TILE_ROWS) // group_rows) * (padded(cols, CODEBOOK_COLS) // CODEBOOK_COLS) * entries


def row_bytes(cols: int, bits: int) -> int:
    """Bytes of one row of codes in the rows layout."""
    return padded(cols, ROW_MULTIPLE) * bits // 8


def pack_tiles(codes: Bytes, bits: int, tile_cols: int) -> Bytes:
    """(rows, cols) codes -> (packed_bytes,) uint8."""
    rows, cols = codes.shape
    steps = padded(cols, tile_cols) // STEP_COLS
    tiles, tile_steps = steps * STEP_COLS // tile_cols, tile_cols // STEP_COLS
    out = np.empty((padded(rows, TILE_ROWS) // TILE_ROWS, tiles, tile_steps * bits // 8, STEP_BYTES), np.uint8)
    for start, stop in _block_ranges(rows, steps * STEP_COLS):
        block = np.zeros(((stop - start) * TILE_ROWS, steps * STEP_COLS), np.uint8)
        part = codes[start * TILE_ROWS : stop * TILE_ROWS]
        check_codes(part, bits)
        block[: len(part), :cols] = part
        block = block.reshape(stop - start, TILE_ROWS, tiles, tile_steps, STEP_COLS).transpose(0, 2, 3, 1, 4)
        stepwise = block.reshape(stop - start, tiles, tile_steps, STEP_BYTES)  # byte 4r + c of step j
        fill_planes(stepwise, bits, out[start:stop], spread=True)
    return out.reshape(-1)


def unpack_tiles(packed: Bytes, rows: int, cols: int, bits: int, tile_cols: int) -> Bytes:
    """(>= packed_bytes,) uint8 -> (rows, cols) codes."""
    blocks, tiles, tile_steps = padded(rows, TILE_ROWS) // TILE_ROWS, padded(cols, tile_cols) // tile_cols, tile_cols // STEP_COLS
    stored = packed[: packed_bytes(rows, cols, bits, tile_cols)].reshape(blocks, tiles, tile_steps * bits // 8, STEP_BYTES)
    codes = np.empty((rows, cols), np.uint8)
    for start, stop in _block_ranges(rows, tiles * tile_cols):
        stepwise = np.zeros((stop - start, tiles, tile_steps, STEP_BYTES), np.uint8)
        read_planes(stored[start:stop], bits, stepwise, spread=True)
        block = stepwise.reshape(stop - start, tiles, tile_steps, TILE_ROWS, STEP_COLS).transpose(0, 3, 1, 2, 4)
        block = block.reshape((stop - start) * TILE_ROWS, tiles * tile_cols)
        codes[start * TILE_ROWS : stop * TILE_ROWS] = block[: rows - start * TILE_ROWS, :cols]
    return codes


def pack_rows(codes: Bytes, bits: int) -> Bytes:
    """(rows, cols) codes -> (rows * row_bytes,) uint8, row by row."""
    rows, cols = codes.shape
    width = padded(cols, ROW_MULTIPLE)
    out = np.empty((rows, row_bytes(cols, bits), 1), np.uint8)
    for start, stop in _ranges(rows, max(1, _CHUNK_CODES // width)):
        check_codes(codes[start:stop], bits)
        part = np.zeros((stop - start, width, 1), np.uint8)
        part[:, :cols, 0] = codes[start:stop]
        fill_planes(part, bits, out[start:stop])
    return out.reshape(-1)


def unpack_rows(packed: Bytes, rows: int, cols: int, bits: int) -> Bytes:
    """(>= rows * row_bytes,) uint8 -> (rows, cols) codes. For single rows, index packed.reshape(rows, row_bytes) first."""
    stored = packed[: rows * row_bytes(cols, bits)].reshape(rows, -1, 1)
    width = padded(cols, ROW_MULTIPLE)
    codes = np.empty((rows, cols), np.uint8)
    for start, stop in _ranges(rows, max(1, _CHUNK_CODES // width)):
        part = np.zeros((stop - start, width, 1), np.uint8)
        read_planes(stored[start:stop], bits, part)
        codes[start:stop] = part[:, :cols, 0]
    return codes


def pack_scales(scales: NDArray[T]) -> NDArray[T]:
    """(rows, groups) uint8 or float16 -> flat in the order (row_block, group, 16); padded rows are 0."""
    rows, groups = scales.shape
    full = np.zeros((padded(rows, TILE_ROWS), groups), scales.dtype)
    full[:rows] = scales
    return full.reshape(-1, TILE_ROWS, groups).transpose(0, 2, 1).reshape(-1)


def unpack_scales(packed: NDArray[T], rows: int, groups: int) -> NDArray[T]:
    """The inverse of pack_scales: -> (rows, groups)."""
    blocks = padded(rows, TILE_ROWS) // TILE_ROWS
    stored = packed[: blocks * groups * TILE_ROWS].reshape(blocks, groups, TILE_ROWS)
    return np.ascontiguousarray(stored.transpose(0, 2, 1).reshape(-1, groups)[:rows])


def pack_row_scale(row_scale: NDArray[np.float16]) -> NDArray[np.float16]:
    """(rows,) -> (padded rows,); padded rows are 0."""
    full = np.zeros(padded(len(row_scale), TILE_ROWS), np.float16)
    full[: len(row_scale)] = row_scale
    return full


def pack_zeros(zeros: Bytes, bits: int) -> Bytes:
    """(rows, groups) zeros below 2**bits -> 2*bits bytes for each (row_block, group).

    The planes in PLANES order, each one little-endian integer of 16*p bits with row r in bits [p*r, p*r + p).
    """
    check_codes(zeros, bits)
    rows, groups = zeros.shape
    full = pack_scales(zeros).reshape(padded(rows, TILE_ROWS) // TILE_ROWS, groups, TILE_ROWS, 1)
    out = np.empty((*full.shape[:2], 2 * bits, 1), np.uint8)
    fill_planes(full, bits, out)
    return out.reshape(-1)


def unpack_zeros(packed: Bytes, rows: int, groups: int, bits: int) -> Bytes:
    """The inverse of pack_zeros: -> (rows, groups) uint8."""
    blocks = padded(rows, TILE_ROWS) // TILE_ROWS
    stored = packed[: blocks * groups * 2 * bits].reshape(blocks, groups, 2 * bits, 1)
    full = np.zeros((blocks, groups, TILE_ROWS, 1), np.uint8)
    read_planes(stored, bits, full)
    return unpack_scales(full.reshape(-1), rows, groups)


def pack_codebooks(codebooks: Bytes, group_rows: int = CODEBOOK_ROWS) -> Bytes:
    """(ceil(rows/group_rows), ceil(cols/32), 2**bits) centroids 0..127 -> flat, in the order of `pack_tables`.

    With 2**bits <= 4 * group_rows, the shuffle table of a 128-bit lane (4 rows) is at most 16 neighbouring bytes.
    """
    _check_centroids(codebooks)
    return pack_tables(codebooks, group_rows)


def unpack_codebooks(packed: Bytes, rows: int, cols: int, group_rows: int = CODEBOOK_ROWS, entries: int = 2**CODEBOOK_BITS) -> Bytes:
    """The inverse of pack_codebooks for a matrix of (rows, cols)."""
    return unpack_tables(packed, rows, cols, group_rows, entries)


def pack_tables(tables: NDArray[Entry], group_rows: int) -> NDArray[Entry]:
    """(ceil(rows/group_rows), ceil(cols/32), entries) -> flat in the order (row_block, column tile, 16/group_rows tables, entries)."""
    blocks, tiles, entries = tables.shape
    per_block = TILE_ROWS // group_rows
    full = np.zeros((padded(blocks, per_block), tiles, entries), tables.dtype)
    full[:blocks] = tables
    return full.reshape(-1, per_block, tiles, entries).transpose(0, 2, 1, 3).reshape(-1)


def unpack_tables(packed: NDArray[Entry], rows: int, cols: int, group_rows: int, entries: int) -> NDArray[Entry]:
    """The inverse of pack_tables for a matrix of (rows, cols)."""
    tiles, per_block = padded(cols, CODEBOOK_COLS) // CODEBOOK_COLS, TILE_ROWS // group_rows
    stored = packed[: codebook_bytes(rows, cols, group_rows, entries)].reshape(-1, tiles, per_block, entries)
    return np.ascontiguousarray(stored.transpose(0, 2, 1, 3).reshape(-1, tiles, entries)[: -(-rows // group_rows)])


def pair_codebook_bytes(rows: int, group_rows: int, bits: int) -> int:
    """Bytes of the tables of a matrix of pairs: two components of 2**bits entries for each group_rows rows."""
    return -(-rows // group_rows) * 2 * 2**bits


def pack_pair_codebooks(codebooks: Bytes) -> Bytes:
    """(ceil(rows/group_rows), 2**bits, 2) centroids 0..127 -> flat in the order (row group, component, entry)."""
    _check_centroids(codebooks)
    return codebooks.transpose(0, 2, 1).reshape(-1)


def unpack_pair_codebooks(packed: Bytes, rows: int, group_rows: int, bits: int) -> Bytes:
    """The inverse of pack_pair_codebooks for a matrix of `rows` rows."""
    stored = packed[: pair_codebook_bytes(rows, group_rows, bits)].reshape(-1, 2, 2**bits)
    return np.ascontiguousarray(stored.transpose(0, 2, 1))


def fill_planes(codes: Bytes, bits: int, out: Bytes, spread: bool = False) -> None:
    """codes (..., n, lanes) -> out (..., n * bits // 8, lanes): 8//p codes of one lane share a byte of a plane of width p:
    neighbours, or with `spread` codes that are as far apart as the plane has lines.
    """
    at = 0
    for width, low_bit in _plane_bits(bits):
        per = 8 // width
        stop = at + codes.shape[-2] // per
        shared = _shared(codes, stop - at, per, spread)
        plane = out[..., at:stop, :]
        plane[...] = 0
        for k in range(per):
            plane |= ((shared[..., k, :] >> low_bit) & (2**width - 1)) << (width * k)
        at = stop


def read_planes(packed: Bytes, bits: int, codes: Bytes, spread: bool = False) -> None:
    """The inverse of fill_planes; `codes` must be zeros, and is filled in place."""
    at = 0
    for width, low_bit in _plane_bits(bits):
        per = 8 // width
        stop = at + codes.shape[-2] // per
        shared = _shared(codes, stop - at, per, spread)
        plane = packed[..., at:stop, :]
        for k in range(per):
            shared[..., k, :] |= ((plane >> (width * k)) & (2**width - 1)) << low_bit
        at = stop


def _shared(codes: Bytes, lines: int, per: int, spread: bool) -> Bytes:
    """A view (..., lines, per, lanes) of codes (..., n, lanes): which codes share a byte."""
    if spread:
        return codes.reshape(*codes.shape[:-2], per, lines, codes.shape[-1]).swapaxes(-3, -2)
    return codes.reshape(*codes.shape[:-2], lines, per, codes.shape[-1])


def _plane_bits(bits: int) -> list[tuple[int, int]]:
    """(width, lowest bit of the code) for each plane."""
    widths = PLANES[bits]
    return [(width, sum(widths[:i])) for i, width in enumerate(widths)]


def _block_ranges(rows: int, width: int) -> Iterator[tuple[int, int]]:
    return _ranges(padded(rows, TILE_ROWS) // TILE_ROWS, max(1, _CHUNK_CODES // (TILE_ROWS * width)))


def _ranges(count: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, chunk):
        yield start, min(start + chunk, count)


def check_codes(codes: Bytes, bits: int) -> None:
    largest = int(codes.max(initial=0))
    assert largest >> bits == 0, f"[tiles] code {largest} does not fit in {bits} bits"


def _check_centroids(codebooks: Bytes) -> None:
    assert codebooks.max(initial=0) < 128, "a centroid does not fit in 7 bits"
