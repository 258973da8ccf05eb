// A matrix stored by columns. The definitions are kernels/gemv_columnwise.py and gemv_sections.py; kernels/chunks.py has the order of the
// codes.
//
// A section is some of the columns: their codes have the same width and the same table. A matrix of the codec columnwise is one section.
// One of the codec sections is five: the columns of 2, of 3 and of 4 bits, and those of 6 bits twice, once for 4 bits of their codes and
// once for 2. What a section has are stored columns; they are numbered from the first section to the last one.
//
// A chunk is up to 512 rows of a section. A column of a chunk is `bits` lines; a line has 16 bytes for each 128 rows (a piece), 64 in a
// whole chunk. Its byte 16P + i has codes of rows 128P + 16g + i, for some groups g of 0..7: the bits are as in a tile of 8 steps (tiles.h),
// with groups for steps.
//
// Sums of a chunk are int32 [k of 4][group of 8][high, low][16]: sum 4P + m is for row 128P + 16g + 4k + m. That is the order in which four
// interleaved columns are multiplied. All sections add to the same sums.
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

constexpr std::size_t kMaxSections = 5, kWidths = 4;
constexpr std::uint8_t kWidthOf[kWidths] = {2, 3, 4, 6};
constexpr std::uint8_t kSectionBits[kMaxSections] = {2, 3, 4, 4, 2};
constexpr std::size_t kSectionTable[3] = {0, 4, 12}, kTableEntries = 28;  // where the tables of 2, 3 and 4 bits begin
constexpr std::int8_t kLowTable[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, kHighTable[] = {-32, -16, 0, 16};

struct Columnwise {
    std::size_t rows, cols;
    std::uint32_t counts[kMaxSections];  // the columns of each section
    std::uint8_t bits[kMaxSections];
    std::uint8_t sections;
    Way way;
    const std::uint8_t *codes, *table, *row_scale, *col_scale;
    const std::uint8_t* places;  // where each column is stored (columnwise_list.h); null with one section

    std::size_t padded_rows() const { return ceil_divide(rows, kPieceRows) * kPieceRows; }
    std::size_t stored() const {  // columns
        std::size_t sum = 0;
        for (std::size_t i = 0; i < sections; ++i) sum += counts[i];
        return sum;
    }
};

struct Section {
    int bits;
    std::size_t first, count;  // of its stored columns
    const std::uint8_t* codes;
    const std::int8_t* table;
};

RWKVQUANT_INLINE Section section_of(const Columnwise& matrix, std::size_t index) {
    std::size_t first = 0, bits = 0;
    for (std::size_t i = 0; i < index; ++i) first += matrix.counts[i], bits += std::size_t{matrix.bits[i]} * matrix.counts[i];
    const auto* table = reinterpret_cast<const std::int8_t*>(matrix.table);
    if (matrix.sections > 1) table = index == 3 ? kLowTable : index == 4 ? kHighTable : table + kSectionTable[index];
    return {matrix.bits[index], first, matrix.counts[index], matrix.codes + matrix.padded_rows() / 8 * bits, table};
}

// One chunk of a section.
struct Chunk {
    const std::uint8_t* codes;
    std::size_t line_bytes, column_bytes;

    Chunk(const Columnwise& matrix, const Section& section, std::size_t index) {
        const std::size_t first = kChunkRows * index, left = matrix.padded_rows() - first, bits = static_cast<std::size_t>(section.bits);
        codes = section.codes + first / 8 * section.count * bits;
        line_bytes = (left < kChunkRows ? left : kChunkRows) / kGroups;
        column_bytes = bits * line_bytes;
    }

    // `number` is that of a stored column of this section.
    const std::uint8_t* column(const Section& section, std::size_t number) const { return codes + column_bytes * (number - section.first); }
};

// The table in each 16 bytes, as `lookup` takes it.
RWKVQUANT_INLINE Bytes entries_of(const Section& section, std::int32_t offset = kEntryOffset) {
    std::uint8_t entries[kStepBytes];
    for (std::size_t i = 0; i < 16; ++i) {
        std::int32_t entry = section.table[i & ((1u << section.bits) - 1)];
        entry = entry > kLargestEntry ? kLargestEntry : entry < -kLargestEntry ? -kLargestEntry : entry;  // a damaged file
        entries[i] = static_cast<std::uint8_t>(entry + offset);
    }
    for (std::size_t i = 16; i < kStepBytes; i += 16) std::memcpy(entries + i, entries, 16);
    return bytes_from(entries);
}

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
