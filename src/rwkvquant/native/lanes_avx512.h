// lanes.h in AVX-512 with VNNI: one register for each of Ints, Floats and Bytes.
#pragma once

#include <immintrin.h>

#define RWKVQUANT_ALWAYS __attribute__((always_inline))
#include "lanes_base.h"

#if !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "this body needs -mavx512bw and -mavx512vnni"
#endif

namespace rwkvquant::RWKVQUANT_BODY {

using Ints = __m512i;
using Floats = __m512;
struct Bytes {  // not an alias, so that Ints and Bytes are different types
    __m512i all;
};

RWKVQUANT_INLINE Ints splat(std::int32_t value) { return _mm512_set1_epi32(value); }
RWKVQUANT_INLINE Floats splat(float value) { return _mm512_set1_ps(value); }
RWKVQUANT_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
RWKVQUANT_INLINE Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
RWKVQUANT_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
RWKVQUANT_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
RWKVQUANT_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
template <int k>
RWKVQUANT_INLINE Ints times_power_of_two(Ints a) {
    return _mm512_slli_epi32(a, k);
}

RWKVQUANT_INLINE Floats floats_from(const float* from) { return _mm512_loadu_ps(from); }
RWKVQUANT_INLINE Floats floats_from_u8(const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
RWKVQUANT_INLINE Floats floats_from_bf16(const std::uint8_t* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16));
}
RWKVQUANT_INLINE Floats floats_from_f16(const std::uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
RWKVQUANT_INLINE Ints ints_from(const std::int32_t* from) { return _mm512_loadu_si512(from); }
RWKVQUANT_INLINE void store(std::int32_t* out, Ints values) { _mm512_storeu_si512(out, values); }
RWKVQUANT_INLINE void store(float* out, Floats values) { _mm512_storeu_ps(out, values); }
RWKVQUANT_INLINE void store(float* out, Floats values, std::size_t rows) {
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << rows) - 1u), values);
}

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from) { return {_mm512_loadu_si512(from)}; }
RWKVQUANT_INLINE Bytes splat_byte(std::uint8_t value) { return {_mm512_set1_epi8(static_cast<char>(value))}; }
template <int k>
RWKVQUANT_INLINE Bytes shift(Bytes a) {
    if constexpr (k > 0) return {_mm512_slli_epi16(a.all, k)};
    if constexpr (k < 0) return {_mm512_srli_epi16(a.all, -k)};
    return a;
}
RWKVQUANT_INLINE Bytes mask(Bytes a, std::uint8_t m) { return {_mm512_and_si512(a.all, splat_byte(m).all)}; }
RWKVQUANT_INLINE Bytes select(std::uint8_t m, Bytes a, Bytes b) {
    return {_mm512_ternarylogic_epi32(a.all, b.all, splat_byte(m).all, 0xE4)};
}
RWKVQUANT_INLINE Bytes index_of(Bytes code, std::uint8_t m, Bytes offset) {
    return {_mm512_ternarylogic_epi32(code.all, splat_byte(m).all, offset.all, 0xEA)};
}
RWKVQUANT_INLINE Bytes lookup(Bytes tables, Bytes index) { return {_mm512_shuffle_epi8(tables.all, index.all)}; }
template <int c>
RWKVQUANT_INLINE Ints column(Bytes a) {
    return _mm512_and_si512(_mm512_srli_epi32(a.all, 8 * c), splat(255));
}

using Four = __m512i;
struct FourBytes {  // which the instruction copies to all lanes
    std::int8_t each[4];
};
RWKVQUANT_INLINE Four four_from(const std::int8_t* x) { return splat(load<std::int32_t>(x)); }

// Products are added in 32 bits: 64 * 255 * 128 is far below 2^31.
// Assembly for GNU compilers: GCC 12 copies the sums of a loop back and forth around the intrinsic, which halved the speed.
template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, Four x) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a.all), "v"(x));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, a.all, x);
#endif
}

template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, const std::int8_t* x) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a.all), "m"(*reinterpret_cast<const FourBytes*>(x)));
    return sum;
#else
    return dot<bits>(sum, a, four_from(x));
#endif
}

RWKVQUANT_INLINE Ints multiply_zeros(Ints zeros, std::int32_t factor) {
    return _mm512_madd_epi16(zeros, splat(factor));
}

template <int bits>
RWKVQUANT_INLINE Ints zeros_of(const std::uint8_t* packed) {
    if constexpr (bits == 1) return _mm512_maskz_mov_epi32(load<std::uint16_t>(packed), splat(1));
    if constexpr (bits == 2) {
        const Ints places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        return _mm512_and_si512(_mm512_srlv_epi32(splat(load<std::int32_t>(packed)), places), splat(3));
    }
    if constexpr (bits == 3) {
        const Ints low = zeros_of<2>(packed);
        return _mm512_mask_or_epi32(low, load<std::uint16_t>(packed + 4), low, splat(4));
    }
    if constexpr (bits == 4) {
        const Ints halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        const Ints places = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        const Ints both = _mm512_castsi128_si512(_mm_cvtsi64_si128(load<std::int64_t>(packed)));
        return _mm512_and_si512(_mm512_srlv_epi32(_mm512_permutexvar_epi32(halves, both), places), splat(15));
    }
    if constexpr (bits > 4) return _mm512_or_si512(zeros_of<4>(packed), _mm512_slli_epi32(zeros_of<bits - 4>(packed + 8), 4));
}

RWKVQUANT_INLINE Ints sixteenth(Ints a) { return _mm512_srai_epi32(a, 4); }

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "nibbles_stay.h"

namespace rwkvquant::RWKVQUANT_BODY {

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from, std::size_t count) {
    return {_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << count / 8) - 1u), from)};
}
template <int k>
RWKVQUANT_INLINE Bytes interleave(Bytes a, Bytes b, Bytes c, Bytes d) {
    const __m512i ab = k < 2 ? _mm512_unpacklo_epi8(a.all, b.all) : _mm512_unpackhi_epi8(a.all, b.all);
    const __m512i cd = k < 2 ? _mm512_unpacklo_epi8(c.all, d.all) : _mm512_unpackhi_epi8(c.all, d.all);
    return {k % 2 == 0 ? _mm512_unpacklo_epi16(ab, cd) : _mm512_unpackhi_epi16(ab, cd)};
}

using UnsignedFour = __m512i;
RWKVQUANT_INLINE UnsignedFour four_from(const std::uint8_t* x) { return splat(load<std::int32_t>(x)); }
RWKVQUANT_INLINE Ints signed_dot(Ints sum, UnsignedFour x, Bytes entries) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(entries.all));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, x, entries.all);
#endif
}

// Writes 16 values at most after the first `kept`; returns how many are kept then. NaN is not zero.
RWKVQUANT_INLINE std::size_t keep_nonzero(Floats values, std::uint32_t first, std::uint32_t* columns, float* to, std::size_t kept) {
    const __mmask16 chosen = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i at = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                                                                                     13, 14, 15));
    _mm512_storeu_si512(columns + kept, _mm512_maskz_compress_epi32(chosen, at));  // compressing to memory is slow on AMD
    _mm512_storeu_ps(to + kept, _mm512_maskz_compress_ps(chosen, values));
    return kept + static_cast<std::size_t>(__builtin_popcount(chosen));
}

using Line = __m512i;
RWKVQUANT_INLINE Line line_from(const std::uint8_t* from) { return load<Line>(from); }
RWKVQUANT_INLINE Line mix(Line a, Line b) { return _mm512_xor_si512(a, b); }

// What was measured to be best for AVX-512.
constexpr int kBlocks = 2, kVectors = 8;          // row-blocks and vectors multiplied together; each pair has a register of sums
constexpr int kDenseVectors = 4;                  // the same for a row of dense weights
constexpr int kEnough = 8;                        // sums at a time: with fewer, instructions wait for one another
constexpr bool kOneVectorLoop = true;             // whether one int8 vector has its own loop (product.h)
constexpr bool kSevenBitLoop = false;             // whether bytes below 128 are multiplied faster than all bytes
constexpr std::size_t kTablesAhead = 3072, kScalesAhead = 1024, kZerosAhead = 512;  // bytes to prefetch; for codes: prefetch.h
constexpr std::int32_t kEntryOffset = 0;          // added to the entries of its tables, where bytes must be unsigned
constexpr int kGroupPairs = 4;                    // of product_columnwise.cpp: 4 sums each, 16 registers
constexpr std::size_t kStripsAhead = 4;           // from prefetching to decoding (product_decoded.cpp): 6 KiB a row-block at 3 bits

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "tables_avx512.h"
