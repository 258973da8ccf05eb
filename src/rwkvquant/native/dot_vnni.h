// The dot products of lanes_avx2.h with AVX-VNNI: one instruction, which cannot saturate.
#pragma once

#if !defined(__AVXVNNI__)
#error "this body needs -mavxvnni"
#endif

namespace rwkvquant::RWKVQUANT_BODY {

// Products are added in 32 bits, as in lanes_avx512.h, and assembly is used for the same reason. VEX is the encoding of CPUs without
// AVX-512. EVEX, that of AVX-512, does the same: a build for tests can run this where only that is there (CMakeLists.txt).
template <int bits>
RWKVQUANT_INLINE __m256i dot_half(__m256i sum, __m256i a, __m256i x) {
#if defined(RWKVQUANT_VNNI_IN_EVEX)
    __asm__("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(x));
    return sum;
#elif defined(__GNUC__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(x));
    return sum;
#else
    return _mm256_dpbusd_avx_epi32(sum, a, x);
#endif
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

using UnsignedFour = __m256i;
RWKVQUANT_INLINE UnsignedFour four_from(const std::uint8_t* x) { return _mm256_set1_epi32(load<std::int32_t>(x)); }
RWKVQUANT_INLINE Ints signed_dot(Ints sum, UnsignedFour x, Bytes entries) {
    return {dot_half<8>(sum.top, x, entries.top), dot_half<8>(sum.bottom, x, entries.bottom)};
}

constexpr bool kSevenBitLoop = false;  // whether bytes below 128 are multiplied faster than all bytes

namespace {

// As in lanes_avx512.h: the upper codes stay at bit 4, and their sums are 16 times too large until the end. Two chains of each.
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
        const Ints upper = add(high[0], high[1]);
        return add(add(low[0], low[1]), {_mm256_srai_epi32(upper.top, 4), _mm256_srai_epi32(upper.bottom, 4)});
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
