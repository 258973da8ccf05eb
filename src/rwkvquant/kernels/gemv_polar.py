"""y = W x for directions with magnitudes (layouts polar{16,17,18,20}.t16x8), int8 activations: the definition of native/product_polar.cpp.

    W       (rows, cols)    weight, decoded row_scale * number                  (codecs/polar.py)
    E       (2^a, 8) int8   a codebook of directions, round(127 u)              (directions.py)
    L       (2^b,)          levels of the magnitude, whole numbers up to 16256
    code    a + b bits      for 8 neighbouring columns of a row: the direction, then the level, code = d + 2^a m

    number   = (E[d] * L[m] + 2^14) >> 15                                       8 whole numbers, -63..63; >> rounds down
    isum[r]  = sum over an activation group of number * xq                      exact, in integers
    y[r]     = y[r] + float(isum[r]) * xscale                                   groups from left to right, from y = 0
    y[r]     = y[r] * row_scale[r]

Every * and + of the last two lines is one float32 operation with its own rounding, never fused. One multiplication of 16-bit numbers
that rounds gives `number` on all CPUs. Rounding it to 7 bits adds 0.1 % to the error of a code (2 bits a weight).

Places: tiles of 16 rows x 8 codes, in row-blocks, from left to right; a tile is 64 columns, one activation group. The code of row r and
vector v is number 16 v + r of its tile. `codes` holds the low 16 bits of each, `high` the others, a + b - 16 = h bits each (0, 1, 2, 4):
code i of a tile at byte i div (8/h) of its 16 h bytes, shifted left by h (i mod (8/h)). Beyond the matrix codes are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.directions import LENGTH
from rwkvquant.kernels.gemv_codebook import centroid_product
from rwkvquant.kernels.tiles import TILE_ROWS, padded

TILE_CODES = 8  # of a row in a tile
LARGEST = 63  # of a number
# Lloyd-Max levels of the length of 8 normal numbers (quantizers/polar/levels.py), the last one as 16256, so that 127 becomes 63.
LEVELS = {
    1: (10832, 16256),
    2: (7539, 10363, 12989, 16256),
    3: (5397, 7127, 8488, 9738, 10990, 12344, 13958, 16256),
    4: (3943, 5096, 5944, 6661, 7309, 7918, 8507, 9091, 9682, 10292, 10936, 11633, 12415, 13332, 14499, 16256),
}

Codes = NDArray[np.uint32]


def gemv_polar(
    codes: NDArray[np.uint16],
    high: NDArray[np.uint8] | None,
    directions: NDArray[np.int8],
    row_scale: NDArray[np.float16],
    xq: NDArray[np.int8],
    xscale: NDArray[np.float32],
    rows: int,
    cols: int,
    out: NDArray[np.float32],
    bits: int,
) -> None:
    """Writes out (rows,) float32. The arrays are flat, as packed, and may be padded at their ends. bits: of a code, a + b."""
    out[:] = centroid_product(numbers(unpack(codes, high, rows, cols, bits), directions, bits, cols), row_scale, xq, xscale)


def numbers(codes: Codes, directions: NDArray[np.int8], bits: int, cols: int) -> NDArray[np.float32]:
    """(rows, ceil(cols / 8)) codes of `bits` bits -> (rows, cols) whole numbers, as float32."""
    direction_bits = len(directions).bit_length() - 1
    levels = np.array(LEVELS[bits - direction_bits], np.int32)
    products = directions[codes & (len(directions) - 1)] * levels[codes >> direction_bits][..., None]  # (rows, codes, 8) int32
    whole = (products + (1 << 14)) >> 15
    return whole.astype(np.float32).reshape(len(codes), -1)[:, :cols]


def code_counts(rows: int, cols: int, bits: int) -> tuple[int, int]:
    """How many U16 and U8 numbers `codes` and `high` have."""
    words = padded(rows, TILE_ROWS) * padded(-(-cols // LENGTH), TILE_CODES)
    return words, words * (bits - 16) // 8


def pack(codes: Codes, bits: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """(rows, codes of a row) below 2**bits -> `codes`, `high`, flat; `high` is empty for 16 bits."""
    rows, count = codes.shape
    assert int(codes.max(initial=0)) >> bits == 0, f"a code does not fit in {bits} bits"
    full = np.zeros((padded(rows, TILE_ROWS), padded(count, TILE_CODES)), np.uint32)
    full[:rows, :count] = codes
    flat = full.reshape(-1, TILE_ROWS, full.shape[1] // TILE_CODES, TILE_CODES).transpose(0, 2, 3, 1).reshape(-1)
    words, width = (flat & 0xFFFF).astype(np.uint16), bits - 16
    if width == 0:
        return words, np.zeros(0, np.uint8)
    parts = (flat >> 16).astype(np.uint8).reshape(-1, 8 // width)
    return words, np.bitwise_or.reduce(parts << (width * np.arange(8 // width, dtype=np.uint8)), 1).astype(np.uint8)


def unpack(codes: NDArray[np.uint16], high: NDArray[np.uint8] | None, rows: int, cols: int, bits: int) -> Codes:
    """The inverse of `pack`: -> (rows, ceil(cols / 8))."""
    count, width = -(-cols // LENGTH), bits - 16
    words, high_bytes = code_counts(rows, cols, bits)
    flat = codes[:words].astype(np.uint32)
    if width:
        assert high is not None
        parts = high[:high_bytes, None] >> (width * np.arange(8 // width, dtype=np.uint8)) & (2**width - 1)
        flat |= parts.reshape(-1).astype(np.uint32) << 16
    tiles = padded(count, TILE_CODES) // TILE_CODES
    full = flat.reshape(-1, tiles, TILE_CODES, TILE_ROWS).transpose(0, 3, 1, 2).reshape(-1, tiles * TILE_CODES)
    return np.ascontiguousarray(full[:rows, :count])
