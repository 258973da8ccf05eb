// The shuffle tables of a codebook tile: 64 bytes, 16 for each 4 rows, from what is stored.
//
// A table of 2^bits centroids serves `group_rows` rows. The 16 bytes of 4 rows hold it once, or twice as many for 2 rows each, one
// behind the other; the index of a row is then its code, plus 2^bits in the second pair of rows.
//
// Here for codebooks that are stored, (16 / group_rows) * 2^bits bytes a tile: every four bytes are copied to where they serve.
// compressed_tables.h makes them.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {

struct Codebook {
    std::size_t cols, group_rows;  // group_rows: 2, 4, 8 or 16 rows share a table
    int bits, rank, shift;         // rank 0: `codebooks` are stored; 1..8: they are made from coefficients and basis
    const std::uint8_t *codes, *row_scale, *codebooks, *coefficients, *basis;
};

// What the file holds, and where things stand in the 64 bytes: byte 16 * lane + place serves rows 4 * lane .. 4 * lane + 3.
template <int bits, bool two_tables>
struct TablePlaces {
    static constexpr std::size_t kEntries = 1 << bits;
    static constexpr std::size_t kUsed = (two_tables ? 2 : 1) * kEntries;  // bytes of the 16
    static_assert(kUsed <= 16);

    const std::uint8_t* const stored;  // one tile after another
    const std::size_t tile_bytes;

    TablePlaces(const std::uint8_t* from, const Codebook& matrix, std::size_t table_bytes)
        : stored(from), tile_bytes(kTileRows / matrix.group_rows * table_bytes) {}

    // For two tiles from here on: of every line, or it is worth nothing.
    RWKVQUANT_INLINE_MEMBER void prefetch_ahead(const std::uint8_t* tile) const {
        prefetch<64>(tile, kTablesAhead);
        if (tile_bytes > 32) prefetch<64>(tile + 64, kTablesAhead);
    }

    static constexpr std::size_t table(std::size_t lane, std::size_t place, std::size_t group_rows) {
        return two_tables ? 2 * lane + place / kEntries % 2 : 4 * lane / group_rows;
    }
    static constexpr std::size_t entry(std::size_t place) { return place % kEntries; }

    // What to add to a code: 2^bits in rows 2 and 3 of each lane if they have a table of their own; for the code at bit 4 too, if
    // the index leaves bits 3 and 7 free.
    static Bytes offset() {
        std::uint8_t all[kStepBytes] = {};
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            if (two_tables && byte % 16 >= 8) all[byte] = kUsed <= 8 ? kEntries << 4 | kEntries : kEntries;
        }
        return bytes_from(all);
    }
};

#if defined(RWKVQUANT_NEON)
// The tables of one lane, which stand side by side; what follows them no index reaches.
template <std::size_t used>
RWKVQUANT_INLINE uint8x16_t table_of_lane(const std::uint8_t* from) {
    if constexpr (used == 16) return load<uint8x16_t>(from);
    else if constexpr (used == 8) return vcombine_u8(load<uint8x8_t>(from), vdup_n_u8(0));
    else return vreinterpretq_u8_u32(vdupq_n_u32(load<std::uint32_t>(from)));
}
#endif

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
#if defined(RWKVQUANT_AVX512)
        const __m512i fours = _mm512_maskz_loadu_epi8(~std::uint64_t{0} >> (64 - tile_bytes), tile);
        return {_mm512_permutexvar_epi32(_mm512_loadu_si512(source), fours)};
#elif defined(RWKVQUANT_AVX2)
        if (tile_bytes == kStepBytes) return bytes_from(tile);
        const __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(tile_bytes / 4)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        const __m256i fours = _mm256_maskload_epi32(reinterpret_cast<const int*>(tile), present);
        return {_mm256_permutevar8x32_epi32(fours, load<__m256i>(source)), _mm256_permutevar8x32_epi32(fours, load<__m256i>(source + 8))};
#elif defined(RWKVQUANT_NEON)
        return each_four<Bytes>([&](auto lane) RWKVQUANT_ALWAYS { return table_of_lane<Places::kUsed>(tile + 4 * source[4 * lane.v]); });
#else
        std::uint8_t all[kStepBytes];
        for (std::size_t four = 0; four < 16; ++four) std::memcpy(all + 4 * four, tile + 4 * source[four], 4);
        return bytes_from(all);
#endif
    }

  private:
    std::int32_t source[16];  // which four bytes of a tile's come to these four
};

}  // namespace rwkvquant::RWKVQUANT_BODY
