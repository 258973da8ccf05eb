// The tables of codebooks and of pairs in NEON; table_places.h says what they are. lanes_neon.h ends with this file.
#pragma once

#include "table_places.h"

namespace rwkvquant::RWKVQUANT_BODY {

// The tables of one lane are next to one another; no index reaches the bytes after them.
template <std::size_t used>
RWKVQUANT_INLINE uint8x16_t table_of_lane(const std::uint8_t* from) {
    if constexpr (used == 16) return load<uint8x16_t>(from);
    else if constexpr (used == 8) return vcombine_u8(load<uint8x8_t>(from), vdup_n_u8(0));
    else return vreinterpretq_u8_u32(vdupq_n_u32(load<std::uint32_t>(from)));
}
template <std::size_t used>
RWKVQUANT_INLINE Bytes spread_fours(const std::uint8_t* tile, std::size_t, const std::int32_t* source) {
    return each_four<Bytes>([&](auto lane) RWKVQUANT_ALWAYS { return table_of_lane<used>(tile + 4 * source[4 * lane.v]); });
}

namespace {

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

template <int bits>
class PairTables : PairEntries<bits, false> {
    using Entries = PairEntries<bits, false>;
    using Entries::kEntries, Entries::pairs;

  public:
    using Entries::Entries;

    // For each component: one instruction looks up 64 entries at most. Then both components side by side, row by row. Codes are passed by
    // reference, because GCC 12 copies values through memory; it also builds tables in memory unless one instruction loads them.
    RWKVQUANT_INLINE_MEMBER void look_up(const Bytes& codes, Bytes* step) const {
        const Bytes first = component(pairs, codes), second = component(pairs + kEntries, codes);
        unroll<4>([&](auto i) RWKVQUANT_ALWAYS {
            const uint32x4_t two_rows = vreinterpretq_u32_u8(vzip1q_u8(first.rows[i.v], second.rows[i.v]));  // eight columns of each
            const uint32x4_t next_two = vreinterpretq_u32_u8(vzip2q_u8(first.rows[i.v], second.rows[i.v]));
            step[0].rows[i.v] = vreinterpretq_u8_u32(vuzp1q_u32(two_rows, next_two));
            step[1].rows[i.v] = vreinterpretq_u8_u32(vuzp2q_u32(two_rows, next_two));
        });
    }

  private:
    RWKVQUANT_INLINE_MEMBER static Bytes component(const std::uint8_t* table, const Bytes& codes) {
        if constexpr (bits == 4) {
            const uint8x16_t entries = vld1q_u8(table);
            return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vqtbl1q_u8(entries, codes.rows[i.v]); });
        } else if constexpr (bits == 5) {
            const uint8x16x2_t entries = vld1q_u8_x2(table);
            return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vqtbl2q_u8(entries, codes.rows[i.v]); });
        } else {  // an index of 64 or more leaves the entry of an earlier part
            Bytes result = splat_byte(0);
            unroll<static_cast<int>(kEntries / 64)>([&](auto part) RWKVQUANT_ALWAYS {
                const uint8x16x4_t entries = vld1q_u8_x4(table + 64 * part.v);
                const uint8x16_t begin = vdupq_n_u8(64 * part.v);
                unroll<4>([&](auto i) RWKVQUANT_ALWAYS {
                    const uint8x16_t index = vsubq_u8(codes.rows[i.v], begin);
                    result.rows[i.v] = part.v == 0 ? vqtbl4q_u8(entries, index) : vqtbx4q_u8(result.rows[i.v], entries, index);
                });
            });
            return result;
        }
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
