// The packed tiles, byte for byte as the file holds them. kernels/tiles.py is the definition; docs/methods/tile.md has the picture.
//
// A step is 16 rows x 4 columns, one byte for each code: byte 4 * row + column. A plane of width p keeps p bits of each code
// and lays 8 / p steps over one another in the same 64 bytes, a line: one load serves 8 / p dot-product instructions. The steps
// of a line are as far apart as the plane has lines, so that all planes of a step differ by the same few shifts.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

constexpr std::size_t kTileRows = 16;
constexpr std::size_t kStepBytes = 64;        // 16 rows x 4 columns
constexpr std::size_t kActivationGroup = 64;  // columns that share one activation scale

// uniform3.t16x64: 3 bits a weight; 1024 weights.
struct Uniform3Tile {
    std::uint8_t low[4][kStepBytes];   // bits 0 and 1 of each code; line j % 4 holds step j at bit 2 * (j / 4)
    std::uint8_t high[2][kStepBytes];  // bit 2;                     line j % 2 holds step j at bit j / 2
};
static_assert(sizeof(Uniform3Tile) == 384 && sizeof(Uniform3Tile) * 8 == 3 * 16 * 64);

// Zeros of 16 rows and one group: 3 bits a row and group, 0.047 bits a weight with groups of 64.
struct Uniform3Zeros {
    std::uint8_t low[4];   // little-endian 32 bits: row r at bit 2 * r
    std::uint8_t high[2];  // little-endian 16 bits: row r at bit r
};
static_assert(sizeof(Uniform3Zeros) == 6 && alignof(Uniform3Zeros) == 1);

// codebook3.t16x32: 3 bits a weight; 512 weights.
struct Codebook3Tile {
    std::uint8_t low[2][kStepBytes];   // line j % 2 holds step j at bit 2 * (j / 2)
    std::uint8_t high[1][kStepBytes];  // step j at bit j
};
static_assert(sizeof(Codebook3Tile) == 192 && sizeof(Codebook3Tile) * 8 == 3 * 16 * 32);

// 8 centroids of 0..127 for each 2 rows x 32 columns: 1 bit a weight. Each 16 bytes are one byte-shuffle table for 4 rows.
struct Codebook3Tables {
    std::uint8_t pair[8][8];
};
static_assert(sizeof(Codebook3Tables) == 64 && sizeof(Codebook3Tables) * 8 == 1 * 16 * 32);

constexpr std::int32_t kCentroidZero = 64;  // the weight of a centroid c is c - 64

}  // namespace rwkvquant
