// Codes out of a tile (tiles.h), for any width and both tile widths.
//
// In every plane, steps j and j + half are in the same line, 4 bits apart. So the planes of codes of at most 4 bits are merged in one
// register with two codes in each byte. A code of more than 4 bits is a tile of 4-bit codes, followed by a tile of the upper bits.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <int bits>
constexpr std::uint8_t kCodeMask = (1 << bits) - 1;

// Steps j and j + steps / 2 of a tile of `bits` <= 4 bits, at bits 0 and 4 of each byte; the other bits may be anything.
template <int bits, int steps, int j>
RWKVQUANT_INLINE Bytes two_steps(const std::uint8_t* tile) {
    if constexpr (bits == 3) {
        constexpr int kLines = steps / 8;  // of the upper plane, after steps / 4 lines of the lower one
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

// start + sums of code * x over the columns of a tile, one sum for each row.
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

}  // namespace rwkvquant::RWKVQUANT_BODY
