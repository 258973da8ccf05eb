"""The tile is what docs/format.md says, bit by bit, and nothing is lost in it."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.kernels import tiles

ALL_BITS = range(1, 9)


def random_codes(rows: int, cols: int, bits: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, (rows, cols), dtype=np.uint8)


def tile_by_definition(codes: np.ndarray, bits: int, tile_cols: int) -> bytes:
    """One bit at a time, independent of the implementation."""
    blocks, column_tiles = -(-codes.shape[0] // 16), -(-codes.shape[1] // tile_cols)
    tile_bytes = 2 * tile_cols * bits
    out = bytearray(blocks * column_tiles * tile_bytes)
    for (row, col), code in np.ndenumerate(codes):
        start = (row // 16 * column_tiles + col // tile_cols) * tile_bytes
        step, byte, low_bit = col % tile_cols // 4, row % 16 * 4 + col % 4, 0
        for width in tiles.PLANES[bits]:
            lines = tile_cols // 4 * width // 8  # of 64 bytes
            part = int(code) >> low_bit & 2**width - 1
            out[start + step % lines * 64 + byte] |= part << width * (step // lines)
            start, low_bit = start + 2 * tile_cols * width, low_bit + width
    return bytes(out)


@pytest.mark.parametrize("tile_cols", tiles.TILE_COLS)
@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_tile_is_its_definition(bits: int, tile_cols: int) -> None:
    codes = random_codes(19, 70, bits)
    assert tiles.pack_tiles(codes, bits, tile_cols).tobytes() == tile_by_definition(codes, bits, tile_cols)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_planes_add_up_to_the_code(bits: int) -> None:
    assert sum(tiles.PLANES[bits]) == bits
    assert set(tiles.PLANES[bits]) <= {1, 2, 4}


def test_known_bytes_of_a_narrow_3_bit_tile() -> None:
    codes = np.zeros((16, 32), np.uint8)  # 8 steps: 2 lines of the low two bits, even and odd steps; 1 line of the third
    codes[0, 0] = 0b111  # step 0, byte 0: first line; the third bit in byte 0 of plane 2
    codes[2, 7] = 0b110  # step 1, byte 2*4 + 3 = 11: 10 at bits 0-1 of the second line; 1 at bit 1 of plane 2
    codes[9, 18] = 0b001  # step 4, byte 9*4 + 2 = 38: third of the first line, bits 4-5
    codes[15, 31] = 0b101  # step 7, byte 63: last of the second line, bits 6-7; bit 7 of plane 2
    packed = tiles.pack_tiles(codes, 3, 32)
    expected = np.zeros(192, np.uint8)
    expected[0], expected[64 + 11], expected[38], expected[64 + 63] = 0b11, 0b10, 0b01 << 4, 0b01 << 6
    expected[128 + 0], expected[128 + 11], expected[128 + 63] = 1, 1 << 1, 1 << 7
    assert packed.tolist() == expected.tolist()


def test_known_bytes_of_a_wide_3_bit_tile() -> None:
    codes = np.zeros((16, 64), np.uint8)  # 16 steps: 4 lines of the low two bits, every fourth step; 2 lines of the third
    codes[0, 20] = 0b111  # step 5, byte 0: second low line (steps 1, 5, 9, 13), bits 2-3; second high line (1, 3, 5, ...), bit 2
    codes[7, 33] = 0b110  # step 8, byte 7*4 + 1 = 29: first low line (steps 0, 4, 8, 12), bits 4-5; first high line (0, 2, ... 8), bit 4
    codes[15, 63] = 0b101  # step 15, byte 63: the last of both planes
    packed = tiles.pack_tiles(codes, 3, 64)
    expected = np.zeros(384, np.uint8)
    expected[64 + 0], expected[29], expected[192 + 63] = 0b11 << 2, 0b10 << 4, 0b01 << 6
    expected[256 + 64 + 0], expected[256 + 29], expected[256 + 64 + 63] = 1 << 2, 1 << 4, 1 << 7
    assert packed.tolist() == expected.tolist()


def test_known_bytes_of_a_3_bit_row() -> None:
    codes = np.array([[1, 2, 3, 4, 5]], np.uint8)
    packed = tiles.pack_rows(codes, 3)
    assert packed.size == tiles.row_bytes(5, 3) == 24
    assert packed[:2].tolist() == [0b00_11_10_01, 0b01]  # low two bits of 1, 2, 3, 4; then of 5
    assert packed[16] == 0b11000  # the third bit of columns 3 and 4
    assert packed[[2, 15, 17, 23]].tolist() == [0, 0, 0, 0]


def test_known_bytes_of_zeros() -> None:
    zeros = np.arange(16, dtype=np.uint8)[:, None] % 8
    low = sum((r % 4) << (2 * r) for r in range(16)).to_bytes(4, "little")  # bits 0-1 of 0..7, 0..7
    high = sum((r % 8 >> 2) << r for r in range(16)).to_bytes(2, "little")
    assert tiles.pack_zeros(zeros, 3).tobytes() == low + high


def test_known_order_of_scales() -> None:
    scales = np.arange(20 * 3, dtype=np.uint8).reshape(20, 3)  # scale of row r, group g is 3r + g
    packed = tiles.pack_scales(scales)
    assert packed.size == 2 * 3 * 16
    assert packed[:16].tolist() == [3 * r for r in range(16)]
    assert packed[16:19].tolist() == [1, 4, 7]
    assert packed[48:64].tolist() == [48, 51, 54, 57] + [0] * 12


def test_known_order_of_codebooks() -> None:
    books = np.zeros((9, 2, 8), np.uint8)  # 18 rows, 64 columns
    books[3, 1] = np.arange(8) + 10
    books[8, 0] = np.arange(8) + 20
    packed = tiles.pack_codebooks(books)
    assert packed.size == tiles.codebook_bytes(18, 64) == 2 * 2 * 64
    assert packed[64 + 8 * 3 :][:8].tolist() == list(range(10, 18))
    assert packed[128:136].tolist() == list(range(20, 28))
    assert np.count_nonzero(packed) == 16


def test_known_order_of_codebooks_that_serve_more_rows() -> None:
    """Row 21, column 40 of (36, 64): block 1, tile 1. Its 4 rows are the second table of the block, its 16 rows the only one."""
    books = np.zeros((9, 2, 16), np.uint8)
    books[21 // 4, 1, 15] = 77
    packed = tiles.pack_codebooks(books, group_rows=4)
    assert packed.size == tiles.codebook_bytes(36, 64, 4, 16) == 3 * 2 * 4 * 16
    assert packed.nonzero()[0].tolist() == [3 * 64 + 1 * 16 + 15]
    books = np.zeros((3, 2, 4), np.uint8)
    books[21 // 16, 1, 2] = 77
    packed = tiles.pack_codebooks(books, group_rows=16)
    assert packed.size == tiles.codebook_bytes(36, 64, 16, 4) == 3 * 2 * 4
    assert packed.nonzero()[0].tolist() == [3 * 4 + 2]


def test_known_order_of_coefficients() -> None:
    """Rank 3 for 2 rows x 32 columns: the 8 triples of a tile are together, signed."""
    coefficients = np.zeros((9, 2, 3), np.int8)  # 18 rows, 64 columns
    coefficients[3, 1] = [-128, 5, 127]
    coefficients[8, 0] = [-1, -2, -3]
    packed = tiles.pack_tables(coefficients, 2)
    assert packed.dtype == np.int8 and packed.size == 2 * 2 * 8 * 3
    assert packed[24 + 3 * 3 :][:3].tolist() == [-128, 5, 127]
    assert packed[48:51].tolist() == [-1, -2, -3]
    assert np.count_nonzero(packed) == 6


def test_known_order_of_the_tables_of_pairs() -> None:
    """All first components of a row group, then all second ones."""
    books = np.zeros((2, 16, 2), np.uint8)  # 17 to 32 rows in groups of 16
    books[1, 3] = [70, 80]
    packed = tiles.pack_pair_codebooks(books)
    assert packed.size == tiles.pair_codebook_bytes(17, 16, 4) == 64
    assert packed[32 + 3] == 70 and packed[32 + 16 + 3] == 80 and np.count_nonzero(packed) == 2


@pytest.mark.parametrize("tile_cols", tiles.TILE_COLS)
@pytest.mark.parametrize("bits", ALL_BITS)
def test_every_code_survives_in_every_place_of_a_tile(bits: int, tile_cols: int) -> None:
    place = np.arange(16 * tile_cols).reshape(16, tile_cols)
    for code in range(2**bits):
        codes = ((place + code) % 2**bits).astype(np.uint8)
        assert np.array_equal(tiles.unpack_tiles(tiles.pack_tiles(codes, bits, tile_cols), 16, tile_cols, bits, tile_cols), codes)
        assert np.array_equal(tiles.unpack_rows(tiles.pack_rows(codes, bits), 16, tile_cols, bits), codes)


@pytest.mark.parametrize("tile_cols", tiles.TILE_COLS)
def test_every_remainder_up_to_two_tiles_survives(tile_cols: int) -> None:
    for rows in range(1, 33):
        for cols in range(1, 2 * tile_cols + 1):
            bits = 1 + (rows + cols) % 8  # along the diagonals, every width is tried with every remainder
            codes = random_codes(rows, cols, bits, seed=rows)
            packed = tiles.pack_tiles(codes, bits, tile_cols)
            assert packed.size == tiles.packed_bytes(rows, cols, bits, tile_cols)
            assert np.array_equal(tiles.unpack_tiles(packed, rows, cols, bits, tile_cols), codes)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_every_remainder_survives_in_rows_scales_and_zeros(bits: int) -> None:
    for rows in (*range(1, 34), 100):
        codes = random_codes(rows, 1 + 4 * rows % 129, bits, seed=rows)
        packed = tiles.pack_rows(codes, bits)
        assert packed.size == rows * tiles.row_bytes(codes.shape[1], bits)
        assert np.array_equal(tiles.unpack_rows(packed, *codes.shape, bits), codes)
        assert np.array_equal(tiles.unpack_zeros(tiles.pack_zeros(codes, bits), *codes.shape, bits), codes)
        assert np.array_equal(tiles.unpack_scales(tiles.pack_scales(codes), *codes.shape), codes)
    assert tiles.pack_zeros(codes, bits).size == 7 * codes.shape[1] * 2 * bits


@pytest.mark.parametrize("group_rows", [2, 4, 8, 16])
def test_every_remainder_of_tables_survives(group_rows: int) -> None:
    for rows in range(1, 35):
        for cols in (1, 31, 32, 33, 64, 96):
            blocks, tiles_across, entries = -(-rows // group_rows), -(-cols // 32), 1 + rows % 16
            books = random_codes(blocks, tiles_across * entries, 7, seed=rows).reshape(blocks, tiles_across, entries)
            packed = tiles.pack_codebooks(books, group_rows)
            assert packed.size == tiles.codebook_bytes(rows, cols, group_rows, entries)
            assert np.array_equal(tiles.unpack_codebooks(packed, rows, cols, group_rows, entries), books)
            signed = books.view(np.int8) - np.int8(64)
            assert np.array_equal(tiles.unpack_tables(tiles.pack_tables(signed, group_rows), rows, cols, group_rows, entries), signed)


def test_every_remainder_of_the_tables_of_pairs_survives() -> None:
    for rows in range(1, 70):
        for group_rows in (16, 32, 48):
            bits = 4 + rows % 5
            books = random_codes(-(-rows // group_rows), 2 * 2**bits, 7, seed=rows).reshape(-1, 2**bits, 2)
            packed = tiles.pack_pair_codebooks(books)
            assert packed.size == tiles.pair_codebook_bytes(rows, group_rows, bits)
            assert np.array_equal(tiles.unpack_pair_codebooks(np.append(packed, np.uint8(9)), rows, group_rows, bits), books)


def test_chunks_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = random_codes(100, 70, 5)
    tiled, in_rows = tiles.pack_tiles(codes, 5, 32), tiles.pack_rows(codes, 5)
    monkeypatch.setattr(tiles, "_CHUNK_CODES", 1)
    assert np.array_equal(tiles.pack_tiles(codes, 5, 32), tiled)
    assert np.array_equal(tiles.pack_rows(codes, 5), in_rows)
    assert np.array_equal(tiles.unpack_tiles(tiled, 100, 70, 5, 32), codes)
    assert np.array_equal(tiles.unpack_rows(in_rows, 100, 70, 5), codes)


def test_one_row_of_the_rows_layout_is_read_alone() -> None:
    codes = random_codes(7, 100, 6)
    packed = tiles.pack_rows(codes, 6).reshape(7, tiles.row_bytes(100, 6))
    assert np.array_equal(tiles.unpack_rows(packed[[5, 2]].reshape(-1), 2, 100, 6), codes[[5, 2]])


def test_padding_is_code_zero() -> None:
    packed = tiles.pack_tiles(np.full((1, 1), 7, np.uint8), 3, 32)
    whole = tiles.unpack_tiles(packed, 16, 32, 3, 32)
    assert whole[0, 0] == 7 and np.count_nonzero(whole) == 1


def test_a_code_too_large_is_named() -> None:
    codes = np.full((3, 3), 8, np.uint8)
    with pytest.raises(AssertionError, match=r"\[tiles\] code 8 does not fit in 3 bits"):
        tiles.pack_tiles(codes, 3, 32)
    with pytest.raises(AssertionError, match=r"\[tiles\] code 8 does not fit in 3 bits"):
        tiles.pack_rows(codes, 3)
    with pytest.raises(AssertionError, match="7 bits"):
        tiles.pack_codebooks(np.full((1, 1, 8), 128, np.uint8))
    with pytest.raises(AssertionError, match="7 bits"):
        tiles.pack_pair_codebooks(np.full((1, 16, 2), 128, np.uint8))
