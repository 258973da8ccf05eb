// The packed tiles as the file holds them. kernels/tiles.py is the definition; docs/methods/tile.md has the picture.
//
// A step is 16 rows x 4 columns, one byte for each code: byte 4 * row + column. A plane of width p has p bits of each code. It puts 8 / p
// steps into the same 64 bytes, a line: one load is enough for 8 / p dot-product instructions. A plane has n = steps * p / 8 lines; step j
// is in line j % n, at bit p * (j / n).
//
//     bits of a code       1    2    3     4    5     6     7        8
//     planes, low first    1    2    2 1   4    4 1   4 2   4 2 1    4 4
//
// A tile of 16 x 64 (or 32) is 16 (8) steps and 128 * bits (64 * bits) bytes. The zeros of 16 rows and one weight group are 2 * bits
// bytes: the same planes, each a little-endian number with row r at bit p * r.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

constexpr std::size_t kTileRows = 16;
constexpr std::size_t kStepBytes = 64;        // 16 rows x 4 columns
constexpr std::size_t kActivationGroup = 64;  // columns that share one activation scale

constexpr std::int32_t kCentroidZero = 64;  // the weight of a centroid c of 0..127 is c - 64

}  // namespace rwkvquant
