// Directions and magnitudes in the lanes: `polar_steps` replaces 16 codes of eight weights, one for each row, by two steps of weights + 64,
//
//     64 + ((direction * level + 2^14) >> 15)
//
// The definition is kernels/gemv_polar.py. AVX-512 gathers eight directions at once, and has an instruction for the rounded product.
#pragma once

#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

struct Polar {
    std::size_t cols;
    int bits, direction_bits;                       // of a code, and of its direction
    const std::uint8_t *codes, *high, *directions;  // `high` null for codes of 16 bits
    const std::uint8_t *levels, *row_scale;
};

#if defined(__AVX512BW__) && defined(__AVX512VL__)

// Two gathers of eight directions; a rounding multiplication for each four of them; then the rows are put in order.
template <int extra>
RWKVQUANT_INLINE void polar_steps(const Polar& matrix, const std::uint8_t* codes, const std::uint8_t* high, Bytes* step) {
    __m512i code = _mm512_cvtepu16_epi32(load<__m256i>(codes));
    if constexpr (extra > 0) {
        const __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), splat(extra));
        __m512i bits;
        if constexpr (extra == 1) bits = _mm512_srlv_epi32(splat(load<std::uint16_t>(high)), places);
        if constexpr (extra == 2) bits = _mm512_srlv_epi32(splat(load<std::int32_t>(high)), places);
        if constexpr (extra == 4) {
            const __m512i halves = _mm512_inserti64x4(splat(load<std::int32_t>(high)), _mm256_set1_epi32(load<std::int32_t>(high + 4)), 1);
            bits = _mm512_srlv_epi32(halves, _mm512_and_si512(places, splat(31)));
        }
        code = _mm512_or_si512(code, _mm512_slli_epi32(_mm512_and_si512(bits, splat((1 << extra) - 1)), 16));
    }
    const __m512i direction = _mm512_and_si512(code, splat((1 << matrix.direction_bits) - 1));
    const __m512i row_level = _mm512_permutexvar_epi32(
        _mm512_srlv_epi32(code, splat(matrix.direction_bits)),
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << (1 << (matrix.bits - matrix.direction_bits))) - 1u),
                                                       matrix.levels)));
    const __m512i level = _mm512_or_si512(row_level, _mm512_slli_epi32(row_level, 16));  // in both words of each row
    const __m512i rows[2] = {_mm512_i32gather_epi64(_mm512_castsi512_si256(direction), matrix.directions, 8),
                             _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(direction, 1), matrix.directions, 8)};
    __m512i half[2];  // rows 0 4 1 5 2 6 3 7 and 8 12 9 13 ..., eight bytes each
    unroll<2>([&](auto h) RWKVQUANT_ALWAYS {
        const __m512i four = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        const auto numbers = [&](__m256i directions, int first) RWKVQUANT_ALWAYS {
            const __m512i of_rows = _mm512_permutexvar_epi32(_mm512_add_epi32(four, splat(first)), level);
            return _mm512_mulhrs_epi16(_mm512_cvtepi8_epi16(directions), of_rows);
        };
        half[h.v] = _mm512_packs_epi16(numbers(_mm512_castsi512_si256(rows[h.v]), 8 * h.v),
                                       numbers(_mm512_extracti64x4_epi64(rows[h.v], 1), 8 * h.v + 4));
        half[h.v] = _mm512_add_epi8(half[h.v], _mm512_set1_epi8(kCentroidZero));
    });
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30);
    step[0] = {_mm512_permutex2var_epi32(half[0], first, half[1])};
    step[1] = {_mm512_permutex2var_epi32(half[0], _mm512_add_epi32(first, splat(1)), half[1])};
}

#else

// Row r of 16 codes: the low 16 bits from `codes`, the others, `extra` of them, from `high`.
template <int extra>
RWKVQUANT_INLINE std::uint32_t polar_code(const std::uint8_t* codes, const std::uint8_t* high, std::size_t r) {
    std::uint32_t code = load<std::uint16_t>(codes + 2 * r);
    if constexpr (extra > 0) code |= (high[r * extra / 8] >> r * extra % 8 & ((1u << extra) - 1)) << 16;
    return code;
}

template <int extra>
RWKVQUANT_INLINE void polar_steps(const Polar& matrix, const std::uint8_t* codes, const std::uint8_t* high, Bytes* step) {
    typedef std::int8_t Eight __attribute__((vector_size(8)));
    typedef std::int32_t EightInts __attribute__((vector_size(32)));
    std::uint8_t bytes[2][kStepBytes];
    const std::uint32_t mask = (1u << matrix.direction_bits) - 1;
    for (std::size_t r = 0; r < kTileRows; ++r) {
        const std::uint32_t code = polar_code<extra>(codes, high, r);
        const std::int32_t level = load<std::uint16_t>(matrix.levels + 2 * (code >> matrix.direction_bits));
        const EightInts product = __builtin_convertvector(load<Eight>(matrix.directions + 8 * std::size_t{code & mask}), EightInts) * level;
        const Eight numbers = __builtin_convertvector(((product + (1 << 14)) >> 15) + kCentroidZero, Eight);
        std::memcpy(bytes[0] + 4 * r, &numbers, 4);
        std::memcpy(bytes[1] + 4 * r, reinterpret_cast<const char*>(&numbers) + 4, 4);
    }
    step[0] = bytes_from(bytes[0]);
    step[1] = bytes_from(bytes[1]);
}

#endif

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
