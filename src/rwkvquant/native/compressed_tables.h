// The shuffle tables of a tile whose codebooks are compressed to rank R (codebook_tables.h has the others, and their places).
//
//     centroid_k = clamp((sum_r coefficient_r * basis_rk + half) >> shift, -64, 63) + 64        half = 2^(shift-1), or 0 for shift 0
//
// (16 / group_rows) * R coefficients a tile are read instead of (16 / group_rows) * 2^bits centroids, which are made here, in
// registers. The definition is CodebookFactors in codecs/; all bodies give its whole numbers.
#pragma once

#include "codebook_tables.h"

namespace rwkvquant::RWKVQUANT_BODY {

#if defined(RWKVQUANT_AVX512)

// Rank at most `most`, 4 or 8. One dot product of four bytes gives 16 entries, four for each lane: coefficients + 128 are the unsigned
// side, and 128 * (sum of a column of the basis) is taken off before. `quarter` counts the four entries that stand at bytes
// 4 * quarter .. of a lane.
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
            // Sixteen bytes that begin at an even one hold the coefficients of the lane's tables.
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

#elif defined(RWKVQUANT_AVX2)

// As above with dot products of two 16-bit numbers: coefficients stand in the upper byte, 256 times too large, and the shift takes
// that off. |sum| <= 256 * 8 * 2^14 = 2^25.
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

#elif defined(RWKVQUANT_NEON)

// Rank at most `most`, 4 or 8. One dot product of four signed bytes gives four entries of a lane.
template <int bits, bool two_tables, int most>
class CompressedTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;
    static constexpr int kQuarters = static_cast<int>(Places::kUsed / 4), kFours = most / 4;

  public:
    using Places::tile_bytes;

    explicit CompressedTables(const Codebook& matrix)
        : Places(matrix.coefficients, matrix, static_cast<std::size_t>(matrix.rank)),
          rank(static_cast<std::size_t>(matrix.rank)),
          places(vdupq_n_s32(-matrix.shift)),
          start(vdupq_n_s32((1 << matrix.shift >> 1) + (kCentroidZero << matrix.shift))) {
        for (std::size_t lane = 0; lane < 4; ++lane) lane_begins[lane] = Places::table(lane, 0, matrix.group_rows) * rank;
        const auto* basis_of = reinterpret_cast<const std::int8_t*>(matrix.basis);
        for (std::size_t quarter = 0; quarter < kQuarters; ++quarter) {
            std::int8_t rows[kFours][4][4] = {};  // of four entries, four ranks side by side; zero where there is no rank
            for (std::size_t k = 0; k < 4; ++k) {
                for (std::size_t r = 0; r < rank; ++r) rows[r / 4][k][r % 4] = basis_of[r * Places::kEntries + Places::entry(4 * quarter + k)];
            }
            for (std::size_t four = 0; four < kFours; ++four) basis[quarter][four] = load<int8x16_t>(rows[four]);
        }
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        std::int8_t coefficients[kStepBytes + 16] = {};  // a copy, because fours are read whole, and the array may end before
        std::size_t at = 0;
        for (; at + 16 <= tile_bytes; at += 16) std::memcpy(coefficients + at, tile + at, 16);
        for (; at < tile_bytes; ++at) coefficients[at] = static_cast<std::int8_t>(tile[at]);
        return each_four<Bytes>([&](auto lane) RWKVQUANT_ALWAYS { return entries_of(coefficients + lane_begins[lane.v]); });
    }

  private:
    RWKVQUANT_INLINE_MEMBER uint8x16_t entries_of(const std::int8_t* coefficients) const {
        int32x4_t entries[kQuarters];
        unroll<kQuarters>([&](auto quarter) RWKVQUANT_ALWAYS {
            constexpr int kTable = 4 * decltype(quarter)::v >> bits;
            int32x4_t total = start;
            unroll<kFours>([&](auto four) RWKVQUANT_ALWAYS {
                total = vdotq_lane_s32(total, basis[quarter.v][four.v], four_from(coefficients + kTable * rank + 4 * four.v), 0);
            });
            entries[quarter.v] = vshlq_s32(total, places);  // to the right: places is negative
        });
        const int16x8_t low = vcombine_s16(vqmovn_s32(entries[0]), vqmovn_s32(entries[1 % kQuarters]));
        const int16x8_t high = kQuarters == 4 ? vcombine_s16(vqmovn_s32(entries[2 % kQuarters]), vqmovn_s32(entries[3 % kQuarters])) : low;
        const int8x16_t clamped = vmaxq_s8(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)), vdupq_n_s8(0));  // 64 is in `start`: 0..127
        return vreinterpretq_u8_s8(clamped);
    }

    std::size_t rank, lane_begins[4];
    int32x4_t places, start;
    int8x16_t basis[kQuarters][kFours];
};

#else

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

#endif

}  // namespace rwkvquant::RWKVQUANT_BODY
