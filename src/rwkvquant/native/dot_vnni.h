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
RWKVQUANT_INLINE __m256i signed_dot_half(__m256i sum, __m256i x, __m256i entries) { return dot_half<8>(sum, x, entries); }

constexpr bool kSevenBitLoop = false;  // whether bytes below 128 are multiplied faster than all bytes

}  // namespace rwkvquant::RWKVQUANT_BODY
