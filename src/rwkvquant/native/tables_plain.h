// The tables of codebooks and of pairs in plain C++; table_places.h says what they are. lanes_plain.h ends with this file.
#pragma once

#include "table_places.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <std::size_t>
RWKVQUANT_INLINE Bytes spread_fours(const std::uint8_t* tile, std::size_t, const std::int32_t* source) {
    Bytes all;
    for (std::size_t four = 0; four < 16; ++four) std::memcpy(all.byte + 4 * four, tile + 4 * source[four], 4);
    return all;
}

namespace {

// Rank at most `most`.
template <int bits, bool two_tables, int most>
class CompressedTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;

  public:
    using Places::tile_bytes;

    explicit CompressedTables(const Codebook& matrix)
        : Places(matrix.coefficients, matrix, static_cast<std::size_t>(matrix.rank)),
          rank(static_cast<std::size_t>(matrix.rank)),
          group_rows(matrix.group_rows),
          shift(matrix.shift) {
        const auto* basis_of = reinterpret_cast<const std::int8_t*>(matrix.basis);
        for (std::size_t k = 0; k < Places::kEntries; ++k) {
            for (std::size_t r = 0; r < rank; ++r) basis[r][k] = basis_of[r * Places::kEntries + k];
        }
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        const std::size_t tables = kTileRows / group_rows;
        const auto* of_tables = reinterpret_cast<const std::int8_t*>(tile);
        std::uint8_t centroids[kTileRows][16], all[kStepBytes];
        for (std::size_t table = 0; table < tables; ++table) {
            std::int32_t total[16];
            for (std::int32_t& each : total) each = 1 << shift >> 1;
            for (std::size_t r = 0; r < rank; ++r) {
                const std::int32_t coefficient = of_tables[table * rank + r];
                for (std::size_t k = 0; k < 16; ++k) total[k] += coefficient * basis[r][k];
            }
            for (std::size_t k = 0; k < 16; ++k) {
                const std::int32_t value = total[k] >> shift, above = value < -64 ? -64 : value;
                centroids[table][k] = static_cast<std::uint8_t>((above > 63 ? 63 : above) + kCentroidZero);
            }
        }
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            all[byte] = centroids[Places::table(byte / 16, byte % 16, group_rows)][Places::entry(byte % 16)];
        }
        return bytes_from(all);
    }

  private:
    std::size_t rank, group_rows;
    int shift;
    std::int32_t basis[most][16] = {};
};

template <int bits>
class PairTables : PairEntries<bits, true> {
    using Entries = PairEntries<bits, true>;
    using Entries::kEntries, Entries::pairs;

  public:
    using Entries::Entries;

    void look_up(const Bytes& codes, Bytes* step) const {
        for (std::size_t row = 0; row < kTileRows; ++row) {
            for (std::size_t c = 0; c < 4; ++c) std::memcpy(step[c / 2].byte + 4 * row + 2 * (c % 2), pairs + 2 * codes.byte[4 * row + c], 2);
        }
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
