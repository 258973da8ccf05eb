// NibbleSums of lanes.h for dot products of bytes of 8 bits that cannot saturate: the headers of lanes with VNNI include this after them.
#pragma once

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// Sums of code * x over a tile whose codes of `bits` <= 4 bits are two in a byte, at bits 0 and 4. The upper ones stay there,
// so their sums are 16 times too large until the end (15 << 4 = 240 still fits in a byte). Two chains of each.
template <int bits>
struct NibbleSums {
    Ints low[2], high[2] = {splat(0), splat(0)};

    RWKVQUANT_INLINE_MEMBER explicit NibbleSums(Ints start) : low{start, splat(0)} {}

    template <int chain>
    RWKVQUANT_INLINE_MEMBER void add_step(Bytes both, const std::int8_t* x_low, const std::int8_t* x_high) {
        constexpr std::uint8_t kCode = (1 << bits) - 1;
        low[chain] = dot<8>(low[chain], mask(both, kCode), x_low);
        high[chain] = dot<8>(high[chain], mask(both, kCode << 4), x_high);
    }
    RWKVQUANT_INLINE_MEMBER Ints total() const {
        return add(add(low[0], low[1]), sixteenth(add(high[0], high[1])));
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
