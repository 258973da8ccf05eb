// The tables of codebooks and of pairs in AVX2; table_places.h says what they are. lanes_avx2.h ends with this file.
#pragma once

#include "table_places.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <std::size_t>
RWKVQUANT_INLINE Bytes spread_fours(const std::uint8_t* tile, std::size_t tile_bytes, const std::int32_t* source) {
    if (tile_bytes == kStepBytes) return bytes_from(tile);
    const __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(tile_bytes / 4)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i fours = _mm256_maskload_epi32(reinterpret_cast<const int*>(tile), present);
    return {_mm256_permutevar8x32_epi32(fours, load<__m256i>(source)), _mm256_permutevar8x32_epi32(fours, load<__m256i>(source + 8))};
}

namespace {

// Rank at most `most`, 4 or 8. One dot product of two 16-bit numbers: coefficients are in the upper byte, 256 times too large, and the
// shift corrects that. |sum| <= 256 * 8 * 2^14 = 2^25.
template <int bits, bool two_tables, int most>
class CompressedTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;
    static constexpr int kQuarters = static_cast<int>(Places::kUsed / 4), kTwos = most / 2;
    static constexpr int kTables = two_tables ? 2 : 1;  // of a lane

  public:
    using Places::tile_bytes;

    explicit CompressedTables(const Codebook& matrix)
        : Places(matrix.coefficients, matrix, static_cast<std::size_t>(matrix.rank)),
          places(_mm_cvtsi32_si128(matrix.shift + 8)) {
        const auto rank = static_cast<std::size_t>(matrix.rank);
        for (std::size_t lane = 0; lane < 4; ++lane) lane_begins[lane] = Places::table(lane, 0, matrix.group_rows) * rank;
        for (std::size_t table = 0; table < kTables; ++table) {
            for (std::size_t two = 0; two < kTwos; ++two) {
                std::uint8_t byte[16];
                for (std::size_t i = 0; i < 16; ++i) {
                    const std::size_t r = 2 * two + i % 4 / 2;
                    byte[i] = static_cast<std::uint8_t>(i % 2 == 1 && r < rank ? table * rank + r : 0x80);  // 0x80: zero
                }
                bytes[table][two] = _mm256_broadcastsi128_si256(load<__m128i>(byte));
            }
        }
        const auto* basis_of = reinterpret_cast<const std::int8_t*>(matrix.basis);
        for (std::size_t quarter = 0; quarter < kQuarters; ++quarter) {
            std::int16_t rows[kTwos][4][2] = {};  // of four entries, two ranks side by side
            for (std::size_t k = 0; k < 4; ++k) {
                for (std::size_t r = 0; r < rank; ++r) rows[r / 2][k][r % 2] = basis_of[r * Places::kEntries + Places::entry(4 * quarter + k)];
            }
            for (std::size_t two = 0; two < kTwos; ++two) basis[quarter][two] = _mm256_broadcastsi128_si256(load<__m128i>(rows[two]));
        }
        start = _mm256_set1_epi32(((1 << matrix.shift >> 1) + (kCentroidZero << matrix.shift)) * 256);
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        std::uint8_t bytes_of_tile[kStepBytes + 16];  // a copy, because lanes are read 16 bytes at a time, and the array may end before
        copy(bytes_of_tile, tile);
        return {half(bytes_of_tile, 0), half(bytes_of_tile, 2)};
    }

  private:
    RWKVQUANT_INLINE_MEMBER void copy(std::uint8_t* to, const std::uint8_t* from) const {
        std::size_t at = 0;
        for (; at + 16 <= tile_bytes; at += 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), load<__m128i>(from + at));
        for (; at < tile_bytes; ++at) to[at] = from[at];
    }
    RWKVQUANT_INLINE_MEMBER __m256i half(const std::uint8_t* from, std::size_t lane) const {
        const __m256i lanes = _mm256_setr_m128i(load<__m128i>(from + lane_begins[lane]), load<__m128i>(from + lane_begins[lane + 1]));
        __m256i entries[kQuarters];
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            __m256i total = start;
            for (int two = 0; two < kTwos; ++two) {
                const __m256i of_table = _mm256_shuffle_epi8(lanes, bytes[4 * quarter >> bits][two]);
                total = _mm256_add_epi32(total, _mm256_madd_epi16(of_table, basis[quarter][two]));
            }
            entries[quarter] = _mm256_sra_epi32(total, places);
        }
        const __m256i low = _mm256_packs_epi32(entries[0], entries[1 % kQuarters]);
        const __m256i high = kQuarters == 4 ? _mm256_packs_epi32(entries[2 % kQuarters], entries[3 % kQuarters]) : low;
        return _mm256_max_epi8(_mm256_packs_epi16(low, high), _mm256_setzero_si256());  // 64 is in `start`: 0..127
    }

    std::size_t lane_begins[4];
    __m128i places;
    __m256i bytes[kTables][kTwos], basis[kQuarters][kTwos], start;
};

template <int bits>
class PairTables : PairEntries<bits, false> {
    using Entries = PairEntries<bits, false>;
    using Entries::kEntries, Entries::pairs;

  public:
    using Entries::Entries;

    // For each component: a shuffle looks up 16 entries, and the upper bits of the code choose among the shuffles. Then both components
    // side by side, row by row.
    RWKVQUANT_INLINE_MEMBER void look_up(Bytes codes, Bytes* step) const {
        half(codes.top, step[0].top, step[1].top);
        half(codes.bottom, step[0].bottom, step[1].bottom);
    }

  private:
    RWKVQUANT_INLINE_MEMBER void half(__m256i code, __m256i& left, __m256i& right) const {
        const __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15)), high = _mm256_and_si256(_mm256_srli_epi16(code, 4), _mm256_set1_epi8(15));
        __m256i component[2];
        for (std::size_t c = 0; c < 2; ++c) component[c] = _mm256_shuffle_epi8(table(c, 0), low);
        for (std::size_t sixteen = 1; sixteen < kEntries / 16; ++sixteen) {
            const __m256i here = _mm256_cmpeq_epi8(high, _mm256_set1_epi8(static_cast<char>(sixteen)));
            for (std::size_t c = 0; c < 2; ++c) {
                component[c] = _mm256_blendv_epi8(component[c], _mm256_shuffle_epi8(table(c, sixteen), low), here);
            }
        }
        const __m256 two_rows = _mm256_castsi256_ps(_mm256_unpacklo_epi8(component[0], component[1]));  // eight columns of each
        const __m256 next_two = _mm256_castsi256_ps(_mm256_unpackhi_epi8(component[0], component[1]));
        left = _mm256_castps_si256(_mm256_shuffle_ps(two_rows, next_two, 0x88));
        right = _mm256_castps_si256(_mm256_shuffle_ps(two_rows, next_two, 0xDD));
    }
    RWKVQUANT_INLINE_MEMBER __m256i table(std::size_t component, std::size_t sixteen) const {
        return _mm256_broadcastsi128_si256(load<__m128i>(pairs + component * kEntries + 16 * sixteen));
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
