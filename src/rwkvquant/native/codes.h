// Codes out of a tile (tiles.h), for any width and both tile widths.
//
// In every plane, steps j and j + half share a line and stand 4 bits apart. So the planes of at most 4 bits meet in one register of
// two codes a byte, for one merge; and a code of more than 4 bits is a tile of 4-bit codes, followed by a tile of the upper bits.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <int bits>
constexpr std::uint8_t kCodeMask = (1 << bits) - 1;

// Steps j and j + steps / 2 of a tile of `bits` <= 4 bits, at bits 0 and 4 of each byte; bits between them are anything.
template <int bits, int steps, int j>
RWKVQUANT_INLINE Bytes two_steps(const std::uint8_t* tile) {
    if constexpr (bits == 3) {
        constexpr int kLines = steps / 8;  // of the upper plane, behind steps / 4 lines of the lower one
        const Bytes high = bytes_from(tile + kStepBytes * (steps / 4 + j % kLines));
        return select(0x33, two_steps<2, steps, j>(tile), shift<2 - j / kLines>(high));
    } else {
        constexpr int kLines = steps * bits / 8;
        return shift<-bits * (j / kLines)>(bytes_from(tile + kStepBytes * (j % kLines)));
    }
}

// All steps of a tile, one code a byte.
template <int bits, int steps>
RWKVQUANT_INLINE void unpack_codes(const std::uint8_t* tile, Bytes* step) {
    constexpr int kHalf = steps / 2;
    unroll<kHalf>([&](auto index) RWKVQUANT_ALWAYS {
        constexpr int j = decltype(index)::v;
        if constexpr (bits <= 4) {
            const Bytes both = two_steps<bits, steps, j>(tile);
            step[j] = mask(both, kCodeMask<bits>);
            step[j + kHalf] = mask(shift<-4>(both), kCodeMask<bits>);
        } else {
            const Bytes low = two_steps<4, steps, j>(tile), high = two_steps<bits - 4, steps, j>(tile + kStepBytes * kHalf);
            step[j] = mask(select(15, low, shift<4>(high)), kCodeMask<bits>);
            step[j + kHalf] = mask(select(15, shift<-4>(low), high), kCodeMask<bits>);
        }
    });
}

// start + sums of code * x over the columns of a tile, one a row.
template <int bits, int steps>
RWKVQUANT_INLINE Ints dot_codes(Ints start, const std::uint8_t* tile, const std::int8_t* x) {
    if constexpr (bits > 4) {
        const Ints high = dot_codes<bits - 4, steps>(splat(0), tile + kStepBytes * (steps / 2), x);
        return add(dot_codes<4, steps>(start, tile, x), times_power_of_two<4>(high));
    } else {
        NibbleSums<bits> sums(start);
        unroll<steps / 2>([&](auto index) RWKVQUANT_ALWAYS {
            constexpr int j = decltype(index)::v;
            sums.template add_step<j % 2>(two_steps<bits, steps, j>(tile), x + 4 * j, x + 4 * (j + steps / 2));
        });
        return sums.total();
    }
}

// The sum of 32 activations: half a group.
RWKVQUANT_INLINE std::int32_t sum_of_half(const std::int8_t* x) {
#if defined(RWKVQUANT_AVX512) || defined(RWKVQUANT_AVX2)
    const __m256i unsigned_x = _mm256_xor_si256(load<__m256i>(x), _mm256_set1_epi8(-128));  // x + 128
    const __m256i eights = _mm256_sad_epu8(unsigned_x, _mm256_setzero_si256());
    const __m128i fours = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
    return _mm_cvtsi128_si32(_mm_add_epi32(fours, _mm_unpackhi_epi64(fours, fours))) - 32 * 128;
#else
    std::int32_t sum = 0;
    for (std::size_t c = 0; c < 32; ++c) sum += x[c];
    return sum;
#endif
}

}  // namespace rwkvquant::RWKVQUANT_BODY
