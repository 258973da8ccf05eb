// A matrix stored by columns, and a vector that is prepared for it. The definition is kernels/gemv_columnwise.py, and kernels/chunks.py has
// the order of the codes.
//
// A chunk is up to 512 rows. A column of a chunk is `bits` lines; a line has 16 bytes for each 128 rows (a piece), 64 in a whole chunk. Its
// byte 16P + i has codes of rows 128P + 16g + i, for some groups g of 0..7: the bits are as in a tile of 8 steps (tiles.h), with groups for
// steps.
//
// Sums of a chunk are int32 [k of 4][group of 8][high, low][16]: sum 4P + m is for row 128P + 16g + 4k + m. That is the order in which four
// interleaved columns are multiplied.
#pragma once

#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {

constexpr std::size_t kPieceRows = 128, kChunkRows = 512, kQuarters = 4, kGroups = 8;
constexpr std::size_t kHalves = 2;  // high and low bytes of the activations
constexpr std::size_t kSums = kQuarters * kGroups * kHalves * kTileRows;
constexpr std::size_t kMaxColumns = std::size_t{1} << 17;  // 2^17 * 64 * 255 is below 2^31
constexpr std::int32_t kLargestEntry = 64;
constexpr std::size_t kBlockColumns = 1024;  // their codes in one chunk, 192 KiB of 3 bits, stay in the cache for many vectors

namespace {

enum class Way { kChosen, kSparse, kDense };

struct Columnwise {
    std::size_t rows, cols;
    int bits;
    Way way;
    const std::uint8_t *codes, *table, *row_scale, *col_scale;
};

struct Chunk {
    const std::uint8_t* codes;
    std::size_t line_bytes, column_bytes;

    Chunk(const Columnwise& matrix, std::size_t index) {
        const std::size_t padded = ceil_divide(matrix.rows, kPieceRows) * kPieceRows, first = kChunkRows * index;
        const std::size_t rows = padded - first < kChunkRows ? padded - first : kChunkRows, bits = static_cast<std::size_t>(matrix.bits);
        codes = matrix.codes + first * matrix.cols * bits / 8;
        line_bytes = rows / kGroups;
        column_bytes = bits * line_bytes;
    }
};

// The table in each 16 bytes, as `lookup` takes it.
RWKVQUANT_INLINE Bytes entries_of(const Columnwise& matrix, std::int32_t offset = kEntryOffset) {
    std::uint8_t entries[kStepBytes];
    for (std::size_t i = 0; i < kStepBytes; ++i) {
        std::int32_t entry = static_cast<std::int8_t>(matrix.table[i % 16 & ((1u << matrix.bits) - 1)]);
        entry = entry > kLargestEntry ? kLargestEntry : entry < -kLargestEntry ? -kLargestEntry : entry;  // a damaged file
        entries[i] = static_cast<std::uint8_t>(entry + offset);
    }
    return bytes_from(entries);
}

// One vector as `prepare` writes it, in memory of `bytes(cols)`. With rounded activations the columns that are listed have high and low
// bytes; otherwise they have values.
struct Prepared {
    float* scale;
    std::uint32_t* count;         // of the columns listed
    std::int32_t *sum;            // of the high bytes, and of the low bytes
    std::uint32_t* dense;         // whether all_high and all_low are written
    std::uint32_t* starts;        // (blocks + 1,) the place in the list where each block of columns begins
    std::uint32_t* columns;       // (cols,) those that are not zero, ascending
    float* values;                // (cols,) x' of these
    std::uint8_t *high, *low;     // (cols,) q of these
    std::uint8_t *all_high, *all_low;  // (cols,) q of all columns

    Prepared(const void* prepared, std::size_t cols, std::size_t vector) {
        std::uint8_t* at = static_cast<std::uint8_t*>(const_cast<void*>(prepared)) + vector * bytes(cols);
        const auto take = [&](std::size_t size) {
            std::uint8_t* const begin = at;
            at += size;
            return begin;
        };
        scale = reinterpret_cast<float*>(take(4));
        count = reinterpret_cast<std::uint32_t*>(take(4));
        sum = reinterpret_cast<std::int32_t*>(take(8));
        dense = reinterpret_cast<std::uint32_t*>(take(4));
        starts = reinterpret_cast<std::uint32_t*>(take(4 * (blocks(cols) + 1)));
        columns = reinterpret_cast<std::uint32_t*>(take(4 * room(cols)));
        values = reinterpret_cast<float*>(take(4 * room(cols)));
        high = take(room(cols)), low = take(room(cols));
        all_high = take(room(cols)), all_low = take(room(cols));
    }

    static std::size_t blocks(std::size_t cols) { return ceil_divide(cols, kBlockColumns); }
    static std::size_t room(std::size_t cols) { return ceil_divide(cols, 64) * 64 + 64; }  // 16 are written at a time
    static std::size_t bytes(std::size_t cols) { return ceil_divide(20 + 4 * (blocks(cols) + 1) + 12 * room(cols), 64) * 64; }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
