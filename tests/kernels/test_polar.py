"""Directions and magnitudes: the places of codes, and the whole numbers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.kernels import directions, gemv_polar
from rwkvquant.kernels.gemv_polar import LEVELS

BITS = (16, 17, 18, 20)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 70), (40, 200)])
def test_codes_come_back_and_are_where_the_definition_says(bits: int, shape: tuple[int, int]) -> None:
    rows, cols = shape
    count = -(-cols // 8)
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (rows, count), dtype=np.uint32)
    words, high = gemv_polar.pack(codes, bits)
    assert (len(words), len(high)) == gemv_polar.code_counts(rows, cols, bits)
    assert np.array_equal(gemv_polar.unpack(words, high, rows, cols, bits), codes)
    tiles, width = -(-count // 8), bits - 16
    for r in range(rows):
        for v in range(count):
            tile, i = r // 16 * tiles + v // 8, v % 8 * 16 + r % 16
            code = int(words[128 * tile + i])
            if width:
                code |= (int(high[16 * width * tile + i * width // 8]) >> width * (i % (8 // width))) % 2**width << 16
            assert code == codes[r, v]


@pytest.mark.parametrize("magnitude_bits", LEVELS)
def test_numbers_are_directions_times_levels_rounded(magnitude_bits: int) -> None:
    bits = 12 + magnitude_bits if magnitude_bits == 4 else 15 + magnitude_bits
    direction_bits = bits - magnitude_bits
    E = directions.directions("random", direction_bits)
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 5), dtype=np.uint32)
    codes[0, 0] = (len(E) - 1) + (2**magnitude_bits - 1 << direction_bits)
    got = gemv_polar.numbers(codes, E, bits, 37)
    assert got.shape == (3, 37) and np.abs(got).max() <= gemv_polar.LARGEST
    for r in range(3):
        for c in range(37):
            code = int(codes[r, c // 8])
            exact = int(E[code % len(E), c % 8]) * LEVELS[magnitude_bits][code // len(E)] / 2**15
            assert got[r, c] == np.floor(exact + 0.5)


def test_the_last_level_of_each_size_reaches_the_largest_number() -> None:
    assert {(127 * levels[-1] + (1 << 14)) >> 15 for levels in LEVELS.values()} == {gemv_polar.LARGEST}
    assert all(list(levels) == sorted(levels) and len(levels) == 2**bits for bits, levels in LEVELS.items())


def test_a_code_that_is_too_large_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="does not fit in 16 bits"):
        gemv_polar.pack(np.array([[1 << 16]], np.uint32), 16)
