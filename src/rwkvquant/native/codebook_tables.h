// The shuffle tables of a codebook tile: 64 bytes, 16 for each 4 rows, from what is stored.
//
// A table of 2^bits centroids serves `group_rows` rows. The 16 bytes of 4 rows hold one table, or two tables of 2 rows each, one after the
// other. The index of a row is its code; with two tables, plus 2^bits in the second pair of rows.
//
// This file is for codebooks that are stored, (16 / group_rows) * 2^bits bytes for each tile: every four bytes are copied to where they are
// used. CompressedTables (table_places.h) calculate the tables.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

template <int bits, bool two_tables>
class StoredTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;

  public:
    using Places::tile_bytes;

    explicit StoredTables(const Codebook& matrix) : Places(matrix.codebooks, matrix, Places::kEntries) {
        for (std::size_t four = 0; four < 16; ++four) {
            const std::size_t lane = four / 4, place = 4 * (four % 4);
            source[four] = static_cast<std::int32_t>((Places::table(lane, place, matrix.group_rows) * Places::kEntries + Places::entry(place)) / 4);
        }
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        return spread_fours<Places::kUsed>(tile, tile_bytes, source);
    }

  private:
    std::int32_t source[16];  // which four bytes of the tile are copied to these four
};

}  // namespace
}  // namespace rwkvquant::RWKVQUANT_BODY
