// The tables of codebooks and of pairs in AVX-512; table_places.h says what they are. lanes_avx512.h ends with this file.
#pragma once

#include "table_places.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <std::size_t>
RWKVQUANT_INLINE Bytes spread_fours(const std::uint8_t* tile, std::size_t tile_bytes, const std::int32_t* source) {
    const __m512i fours = _mm512_maskz_loadu_epi8(~std::uint64_t{0} >> (64 - tile_bytes), tile);
    return {_mm512_permutexvar_epi32(_mm512_loadu_si512(source), fours)};
}

namespace {

// Rank at most `most`, 4 or 8. One dot product of four bytes gives 16 entries, four for each lane: coefficients + 128 are the unsigned
// side, and `start` already has minus 128 * (sum of a column of the basis). `quarter`: the four entries at bytes 4 * quarter .. of a lane.
template <int bits, bool two_tables, int most>
class CompressedTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;
    static constexpr int kQuarters = static_cast<int>(Places::kUsed / 4), kFours = most / 4;
    static constexpr int kTables = two_tables ? 2 : 1;  // of a lane

  public:
    using Places::tile_bytes;

    explicit CompressedTables(const Codebook& matrix)
        : Places(matrix.coefficients, matrix, static_cast<std::size_t>(matrix.rank)),
          places(_mm512_set1_epi32(matrix.shift)) {
        const auto rank = static_cast<std::size_t>(matrix.rank);
        std::uint16_t word[32] = {};
        std::uint8_t byte[kTables][kFours][kStepBytes];
        for (std::size_t lane = 0; lane < 4; ++lane) {
            // 16 bytes that begin at an even byte hold the coefficients of the lane's tables.
            const std::size_t first = Places::table(lane, 0, matrix.group_rows) * rank, even = first / 2;
            for (std::size_t w = 0; w < 8; ++w) word[8 * lane + w] = static_cast<std::uint16_t>(even + w);
            for (std::size_t table = 0; table < kTables; ++table) {
                for (std::size_t i = 0; i < 16 * kFours; ++i) {
                    const std::size_t r = i / 16 * 4 + i % 4, place = first + table * rank + r - 2 * even;
                    byte[table][i / 16][16 * lane + i % 16] = static_cast<std::uint8_t>(r < rank ? place : 0x80);  // 0x80: zero
                }
            }
        }
        words = _mm512_loadu_si512(word);
        for (int table = 0; table < kTables; ++table) {
            for (int four = 0; four < kFours; ++four) bytes[table][four] = _mm512_loadu_si512(byte[table][four]);
        }
        const auto* basis_of = reinterpret_cast<const std::int8_t*>(matrix.basis);
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            std::int8_t rows[kFours][4][4] = {};  // of four entries, four ranks side by side
            std::int32_t begin[4];
            for (std::size_t k = 0; k < 4; ++k) {
                begin[k] = (1 << matrix.shift >> 1) + (kCentroidZero << matrix.shift);
                for (std::size_t r = 0; r < rank; ++r) {
                    const std::int8_t value = basis_of[r * Places::kEntries + Places::entry(4 * static_cast<std::size_t>(quarter) + k)];
                    rows[r / 4][k][r % 4] = value;
                    begin[k] -= 128 * value;
                }
            }
            for (int four = 0; four < kFours; ++four) basis[quarter][four] = _mm512_broadcast_i32x4(load<__m128i>(rows[four]));
            start[quarter] = _mm512_broadcast_i32x4(load<__m128i>(begin));
        }
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        const __m512i all = _mm512_maskz_loadu_epi8(~std::uint64_t{0} >> (64 - tile_bytes), tile);
        const __m512i lanes = _mm512_permutexvar_epi16(words, _mm512_xor_si512(all, splat_byte(0x80).all));
        __m512i of_table[kTables][kFours];
        for (int table = 0; table < kTables; ++table) {
            for (int four = 0; four < kFours; ++four) of_table[table][four] = _mm512_shuffle_epi8(lanes, bytes[table][four]);
        }
        __m512i entries[kQuarters];
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            __m512i total = start[quarter];
            for (int four = 0; four < kFours; ++four) {
                total = _mm512_dpbusd_epi32(total, of_table[4 * quarter >> bits][four], basis[quarter][four]);
            }
            entries[quarter] = _mm512_srav_epi32(total, places);
        }
        const __m512i low = _mm512_packs_epi32(entries[0], entries[1 % kQuarters]);
        const __m512i high = kQuarters == 4 ? _mm512_packs_epi32(entries[2 % kQuarters], entries[3 % kQuarters]) : low;
        return {_mm512_max_epi8(_mm512_packs_epi16(low, high), _mm512_setzero_si512())};  // 64 is in `start`: 0..127
    }

  private:
    __m512i places, words, bytes[kTables][kFours], basis[kQuarters][kFours], start[kQuarters];
};

template <int bits>
class PairTables : PairEntries<bits, true> {
    using Entries = PairEntries<bits, true>;
    using Entries::kEntries, Entries::pairs;

  public:
    using Entries::Entries;

    // Codes become 16-bit numbers; a permutation of words looks up 32 pairs in one register, 64 in two.
    RWKVQUANT_INLINE_MEMBER void look_up(Bytes codes, Bytes* step) const {
        const __m512i first = _mm512_set4_epi32(static_cast<int>(0x800D800Cu), static_cast<int>(0x80098008u), static_cast<int>(0x80058004u),
                                                static_cast<int>(0x80018000u));
        step[0] = pairs_at(_mm512_shuffle_epi8(codes.all, first));
        step[1] = pairs_at(_mm512_shuffle_epi8(codes.all, _mm512_add_epi16(first, _mm512_set1_epi16(2))));
    }

  private:
    RWKVQUANT_INLINE_MEMBER Bytes pairs_at(__m512i index) const {
        const auto part = [&](std::size_t at) { return _mm512_loadu_si512(pairs + 64 * at); };  // 32 entries
        if constexpr (bits <= 5) return {_mm512_permutexvar_epi16(index, part(0))};
        __m512i result = _mm512_permutex2var_epi16(part(0), index, part(1));
        for (std::size_t sixty_four = 1; sixty_four < kEntries / 64; ++sixty_four) {
            const __mmask32 here = _mm512_cmpeq_epi16_mask(_mm512_srli_epi16(index, 6), _mm512_set1_epi16(static_cast<short>(sixty_four)));
            const __m512i other = _mm512_permutex2var_epi16(part(2 * sixty_four), index, part(2 * sixty_four + 1));
            result = _mm512_mask_mov_epi16(result, here, other);
        }
        return {result};
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
