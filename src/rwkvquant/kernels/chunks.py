"""The chunk: the place of each bit of a matrix that is stored column by column (codec columnwise), so that a column can be skipped.

A matrix (rows, cols) is padded with code 0 to a multiple of 128 rows, and stored as chunks of 512 rows; the last one may have fewer. A
chunk is n = 1 to 4 pieces of 128 rows. It has its columns from left to right, and nothing between them:

    group g   of a piece: its rows 16g .. 16g + 15; a piece has 8 groups
    line      16 n bytes: byte 16P + i is row i of a group in piece P
    plane     width p (tiles.py): p lines, and group g is in line g % p, shifted left by p * (g // p)

So a column of a chunk is `bits` lines. In a whole chunk a line is 64 bytes: one cache line, one register.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rwkvquant.kernels.tiles import Bytes, check_codes, fill_planes, padded, read_planes

CHUNK_ROWS = 512
PIECE_ROWS = 128
GROUPS = 8
GROUP_ROWS = PIECE_ROWS // GROUPS


def packed_bytes(rows: int, cols: int, bits: int) -> int:
    """Bytes of the codes of a matrix in chunks."""
    return padded(rows, PIECE_ROWS) * cols * bits // 8


def pack_chunks(codes: Bytes, bits: int) -> Bytes:
    """(rows, cols) codes -> (packed_bytes,) uint8."""
    check_codes(codes, bits)
    rows, cols = codes.shape
    out = np.empty(packed_bytes(rows, cols, bits), np.uint8)
    for start, stop, pieces, begin, end in _chunks(rows, cols, bits):
        chunk = np.zeros((pieces * PIECE_ROWS, cols), np.uint8)
        chunk[: stop - start] = codes[start:stop]
        groups = chunk.reshape(pieces, GROUPS, GROUP_ROWS, cols).transpose(3, 1, 0, 2).reshape(cols, GROUPS, pieces * GROUP_ROWS)
        fill_planes(groups, bits, out[begin:end].reshape(cols, bits, pieces * GROUP_ROWS), spread=True)
    return out


def unpack_chunks(packed: Bytes, rows: int, cols: int, bits: int) -> Bytes:
    """(>= packed_bytes,) uint8 -> (rows, cols) codes."""
    codes = np.empty((rows, cols), np.uint8)
    for start, stop, pieces, begin, end in _chunks(rows, cols, bits):
        groups = np.zeros((cols, GROUPS, pieces * GROUP_ROWS), np.uint8)
        read_planes(packed[begin:end].reshape(cols, bits, pieces * GROUP_ROWS), bits, groups, spread=True)
        chunk = groups.reshape(cols, GROUPS, pieces, GROUP_ROWS).transpose(2, 1, 3, 0).reshape(pieces * PIECE_ROWS, cols)
        codes[start:stop] = chunk[: stop - start]
    return codes


def _chunks(rows: int, cols: int, bits: int) -> Iterator[tuple[int, int, int, int, int]]:
    """First row, row after the last, pieces, first byte, byte after the last of each chunk."""
    for start in range(0, rows, CHUNK_ROWS):
        pieces = min(CHUNK_ROWS, padded(rows - start, PIECE_ROWS)) // PIECE_ROWS
        begin = packed_bytes(start, cols, bits)
        yield start, min(start + CHUNK_ROWS, rows), pieces, begin, begin + packed_bytes(pieces * PIECE_ROWS, cols, bits)
