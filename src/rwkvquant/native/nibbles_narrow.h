// NibbleSums of lanes.h for AVX2, which multiplies bytes into sums of 16 bits.
#pragma once

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// Sums of code * x over a tile whose codes of `bits` <= 4 bits are two in a byte, at bits 0 and 4. A tile has at most 8 steps of
// two codes, so both sums fit in 16 bits, and they are widened once for each tile.
template <int bits>
struct NibbleSums {
    static constexpr int kCode = (1 << bits) - 1;
    static_assert(8 * 2 * kCode * 128 <= 32767);
    Ints start;
    Bytes low = splat_byte(0), high = splat_byte(0);

    RWKVQUANT_INLINE_MEMBER explicit NibbleSums(Ints first) : start(first) {}

    template <int chain>
    RWKVQUANT_INLINE_MEMBER void add_step(Bytes both, const std::int8_t* x_low, const std::int8_t* x_high) {
        const auto add_products = [](Bytes sums, Bytes code, Four four) {
            return Bytes{_mm256_add_epi16(sums.top, _mm256_maddubs_epi16(code.top, four)),
                         _mm256_add_epi16(sums.bottom, _mm256_maddubs_epi16(code.bottom, four))};
        };
        low = add_products(low, mask(both, kCode), four_from(x_low));
        high = add_products(high, mask(shift<-4>(both), kCode), four_from(x_high));
    }
    RWKVQUANT_INLINE_MEMBER Ints total() const {
        const __m256i ones = _mm256_set1_epi16(1);
        return add(start, {_mm256_add_epi32(_mm256_madd_epi16(low.top, ones), _mm256_madd_epi16(high.top, ones)),
                           _mm256_add_epi32(_mm256_madd_epi16(low.bottom, ones), _mm256_madd_epi16(high.bottom, ones))});
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
