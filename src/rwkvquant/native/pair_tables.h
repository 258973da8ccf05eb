// The table of a pair codebook: code -> two centroids, side by side.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {

struct Pairs {
    std::size_t cols, group_rows;  // group_rows: rows that share a table, a multiple of 16
    int bits;                      // of a code, which is two weights
    const std::uint8_t *codes, *codebooks, *row_scale;
};

// Of a step of codes, 16 rows x 4, `look_up` makes two steps of weights: codes 0 and 1 of each row, then codes 2 and 3.
template <int bits>
class PairTables {
    static constexpr std::size_t kEntries = 1 << bits;

  public:
    // The file holds the first component of all entries, then the second.
    PairTables(const Pairs& matrix, std::size_t row_group) {
        const std::uint8_t* components = matrix.codebooks + row_group * 2 * kEntries;
#if defined(RWKVQUANT_AVX2) || defined(RWKVQUANT_NEON)
        std::memcpy(pairs, components, 2 * kEntries);
#else
        for (std::size_t k = 0; k < kEntries; ++k) {
            pairs[2 * k] = components[k];
            pairs[2 * k + 1] = components[kEntries + k];
        }
#endif
    }

#if defined(RWKVQUANT_AVX512)

    // Codes become 16-bit numbers; a permutation of words looks up 32 pairs in one register, 64 in two.
    RWKVQUANT_INLINE_MEMBER void look_up(Bytes codes, Bytes* step) const {
        const __m512i first = _mm512_set4_epi32(static_cast<int>(0x800D800Cu), static_cast<int>(0x80098008u), static_cast<int>(0x80058004u),
                                                static_cast<int>(0x80018000u));
        step[0] = found(_mm512_shuffle_epi8(codes.all, first));
        step[1] = found(_mm512_shuffle_epi8(codes.all, _mm512_add_epi16(first, _mm512_set1_epi16(2))));
    }

  private:
    RWKVQUANT_INLINE_MEMBER Bytes found(__m512i index) const {
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

#elif defined(RWKVQUANT_AVX2)

    // Sixteen entries a shuffle, chosen by the upper bits of the code, for each component; then both side by side, row by row.
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

#elif defined(RWKVQUANT_NEON)

    // Up to 64 entries an instruction, for each component; then both side by side, row by row. Codes come by reference: GCC 12 copies
    // what it is given through memory, and puts tables together there unless one instruction loads them.
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
        } else {  // an index of 64 or more leaves what was found before
            Bytes found = splat_byte(0);
            unroll<static_cast<int>(kEntries / 64)>([&](auto part) RWKVQUANT_ALWAYS {
                const uint8x16x4_t entries = vld1q_u8_x4(table + 64 * part.v);
                const uint8x16_t begin = vdupq_n_u8(64 * part.v);
                unroll<4>([&](auto i) RWKVQUANT_ALWAYS {
                    const uint8x16_t index = vsubq_u8(codes.rows[i.v], begin);
                    found.rows[i.v] = part.v == 0 ? vqtbl4q_u8(entries, index) : vqtbx4q_u8(found.rows[i.v], entries, index);
                });
            });
            return found;
        }
    }

#else

    void look_up(const Bytes& codes, Bytes* step) const {
        for (std::size_t row = 0; row < kTileRows; ++row) {
            for (std::size_t c = 0; c < 4; ++c) std::memcpy(step[c / 2].byte + 4 * row + 2 * (c % 2), pairs + 2 * codes.byte[4 * row + c], 2);
        }
    }

  private:
#endif

    // Entries side by side; AVX2 and NEON: as in the file.
    alignas(64) std::uint8_t pairs[2 * (kEntries < 32 ? 32 : kEntries)];
};

}  // namespace rwkvquant::RWKVQUANT_BODY
