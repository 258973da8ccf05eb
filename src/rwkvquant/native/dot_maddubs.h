// The dot products of lanes_avx2.h with what every CPU with AVX2 has.
#pragma once

namespace rwkvquant::RWKVQUANT_BODY {

// maddubs adds two byte products into 16 bits and saturates at 32767. Bytes below 2^7 cannot reach that, so one pair fits and each step
// is widened. Bytes of 8 bits would (2 * 255 * 127 = 64770), so they are multiplied as 16-bit numbers.
static_assert(2 * 127 * 128 <= 32767 && 2 * 255 * 127 > 32767);

template <int bits>
RWKVQUANT_INLINE __m256i dot_half(__m256i sum, __m256i a, __m256i x) {
    if constexpr (bits < 8) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, x), _mm256_set1_epi16(1)));
    }
    const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
    const __m256i even = _mm256_and_si256(a, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(a, 8);
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd)));
}
using Four = __m256i;
RWKVQUANT_INLINE Four four_from(const std::int8_t* x) { return _mm256_set1_epi32(load<std::int32_t>(x)); }

template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, Four x) {
    return {dot_half<bits>(sum.top, a.top, x), dot_half<bits>(sum.bottom, a.bottom, x)};
}

template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, const std::int8_t* x) {
    return dot<bits>(sum, a, four_from(x));
}

// maddubs does not saturate here: 2 * 255 * 64 = 32640.
using UnsignedFour = __m256i;
RWKVQUANT_INLINE UnsignedFour four_from(const std::uint8_t* x) { return _mm256_set1_epi32(load<std::int32_t>(x)); }
RWKVQUANT_INLINE Ints signed_dot(Ints sum, UnsignedFour x, Bytes entries) {
    const auto half = [=](__m256i of) { return _mm256_madd_epi16(_mm256_maddubs_epi16(x, of), _mm256_set1_epi16(1)); };
    return add(sum, {half(entries.top), half(entries.bottom)});
}

constexpr bool kSevenBitLoop = true;  // whether bytes below 128 are multiplied faster than all bytes

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
