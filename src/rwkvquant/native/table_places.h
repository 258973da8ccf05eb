// What the tables of codebooks and of pairs share in all headers of lanes. These include this file after the lanes, and end with the
// tables: `spread_fours`, CompressedTables and PairTables.
//
//     spread_fours<used>(tile, tile_bytes, source)    64 bytes; bytes 4i .. 4i + 3 are bytes 4 source[i] .. 4 source[i] + 3 of the tile,
//                                                     which has tile_bytes; of each 16 only `used` are read later
//
// CompressedTables calculate the shuffle tables of a tile (codebook_tables.h) whose codebooks are compressed to rank R:
//
//     centroid_k = clamp((sum_r coefficient_r * basis_rk + half) >> shift, -64, 63) + 64        half = 2^(shift-1), or 0 for shift 0
//
// Each tile has (16 / group_rows) * R coefficients instead of (16 / group_rows) * 2^bits centroids, which are calculated in registers. The
// definition is CodebookFactors in codecs/codebook.py; all bodies give the same whole numbers.
//
// PairTables replace each code by its two centroids: from a step of codes, 16 rows x 4, `look_up` makes two steps of weights. The first has
// codes 0 and 1 of each row, the second codes 2 and 3.
#pragma once

#include "lanes_base.h"

namespace rwkvquant::RWKVQUANT_BODY {

struct Codebook {
    std::size_t cols, group_rows;  // group_rows: 2, 4, 8 or 16 rows share a table
    int bits, rank, shift;         // rank 0: `codebooks` are stored; 1..8: they are calculated from coefficients and basis
    const std::uint8_t *codes, *row_scale, *codebooks, *coefficients, *basis;
};

struct Pairs {
    std::size_t cols, group_rows;  // group_rows: rows that share a table, a multiple of 16
    int bits;                      // of a code, which is two weights
    const std::uint8_t *codes, *codebooks, *row_scale;
};

namespace {

// The stored tables, and the places of entries in the 64 bytes: byte 16 * lane + place is for rows 4 * lane .. 4 * lane + 3.
template <int bits, bool two_tables>
struct TablePlaces {
    static constexpr std::size_t kEntries = 1 << bits;
    static constexpr std::size_t kUsed = (two_tables ? 2 : 1) * kEntries;  // bytes of the 16
    static_assert(kUsed <= 16);

    const std::uint8_t* const stored;  // one tile after another
    const std::size_t tile_bytes;

    TablePlaces(const std::uint8_t* from, const Codebook& matrix, std::size_t table_bytes)
        : stored(from), tile_bytes(kTileRows / matrix.group_rows * table_bytes) {}

    // For two tiles from `tile` on. Every line must be prefetched, or it brings nothing.
    RWKVQUANT_INLINE_MEMBER void prefetch_ahead(const std::uint8_t* tile) const {
        prefetch<64>(tile, kTablesAhead);
        if (tile_bytes > 32) prefetch<64>(tile + 64, kTablesAhead);
    }

    static constexpr std::size_t table(std::size_t lane, std::size_t place, std::size_t group_rows) {
        return two_tables ? 2 * lane + place / kEntries % 2 : 4 * lane / group_rows;
    }
    static constexpr std::size_t entry(std::size_t place) { return place % kEntries; }

    // What to add to a code: 2^bits in rows 2 and 3 of each lane if they have their own table; the same for the code at bit 4, if the index
    // leaves bits 3 and 7 free.
    static Bytes offset() {
        std::uint8_t all[kStepBytes] = {};
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            if (two_tables && byte % 16 >= 8) all[byte] = kUsed <= 8 ? kEntries << 4 | kEntries : kEntries;
        }
        return bytes_from(all);
    }
};

// The entries of a pair codebook: both components side by side, or as in the file, which holds the first component of all entries, then
// the second.
template <int bits, bool side_by_side>
struct PairEntries {
    static constexpr std::size_t kEntries = 1 << bits;
    alignas(64) std::uint8_t pairs[2 * (kEntries < 32 ? 32 : kEntries)];

    PairEntries(const Pairs& matrix, std::size_t row_group) {
        const std::uint8_t* components = matrix.codebooks + row_group * 2 * kEntries;
        if constexpr (side_by_side) {
            for (std::size_t k = 0; k < kEntries; ++k) {
                pairs[2 * k] = components[k];
                pairs[2 * k + 1] = components[kEntries + k];
            }
        } else {
            std::memcpy(pairs, components, 2 * kEntries);
        }
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
