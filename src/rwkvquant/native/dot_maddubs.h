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

// maddubs does not saturate here: 2 * 255 * 64 = 32640.
RWKVQUANT_INLINE __m256i signed_dot_half(__m256i sum, __m256i x, __m256i entries) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, entries), _mm256_set1_epi16(1)));
}

constexpr bool kSevenBitLoop = true;  // whether bytes below 128 are multiplied faster than all bytes

}  // namespace rwkvquant::RWKVQUANT_BODY
