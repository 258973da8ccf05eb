// lanes.h in AVX2: two 256-bit registers, rows 0..7 and rows 8..15. RWKVQUANT_DOT and RWKVQUANT_NIBBLES are the headers of dot products:
// those for all CPUs with AVX2, or others that lanes_avxvnni.h names.
#pragma once

#include <immintrin.h>

#define RWKVQUANT_ALWAYS __attribute__((always_inline))
#include "lanes_base.h"

#if !defined(__AVX2__) || !defined(__F16C__)
#error "this body needs -mavx2 and -mf16c"
#endif
#if !defined(RWKVQUANT_DOT)
#define RWKVQUANT_DOT "dot_maddubs.h"
#define RWKVQUANT_NIBBLES "nibbles_narrow.h"
#endif

namespace rwkvquant::RWKVQUANT_BODY {

struct Ints {
    __m256i top, bottom;
};
struct Floats {
    __m256 top, bottom;
};
struct Bytes {
    __m256i top, bottom;
};

RWKVQUANT_INLINE Ints splat(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
RWKVQUANT_INLINE Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
RWKVQUANT_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.top, b.top), _mm256_add_epi32(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Ints subtract(Ints a, Ints b) { return {_mm256_sub_epi32(a.top, b.top), _mm256_sub_epi32(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.top, b.top), _mm256_add_ps(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.top, b.top), _mm256_mul_ps(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.top), _mm256_cvtepi32_ps(a.bottom)}; }
template <int k>
RWKVQUANT_INLINE Ints times_power_of_two(Ints a) {
    return {_mm256_slli_epi32(a.top, k), _mm256_slli_epi32(a.bottom, k)};
}

RWKVQUANT_INLINE Floats floats_from(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
RWKVQUANT_INLINE Floats floats_from_u8(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats({_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))});
}
RWKVQUANT_INLINE __m256 half_from_bf16(const std::uint8_t* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16));
}
RWKVQUANT_INLINE Floats floats_from_bf16(const std::uint8_t* from) { return {half_from_bf16(from), half_from_bf16(from + 16)}; }
RWKVQUANT_INLINE Floats floats_from_f16(const std::uint8_t* from) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
// By halves: a copy of the whole goes through the stack in parts of 16 bytes, and reading it from there waits for all of them.
RWKVQUANT_INLINE Ints ints_from(const std::int32_t* from) { return {load<__m256i>(from), load<__m256i>(from + 8)}; }
RWKVQUANT_INLINE void store(std::int32_t* out, Ints values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), values.top);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), values.bottom);
}
RWKVQUANT_INLINE void store(float* out, Floats values) {
    _mm256_storeu_ps(out, values.top);
    _mm256_storeu_ps(out + 8, values.bottom);
}
RWKVQUANT_INLINE void store(float* out, Floats values, std::size_t rows) {
    float all[kTileRows];
    store(all, values);
    std::memcpy(out, all, rows * sizeof(float));
}

RWKVQUANT_INLINE __m256i half_from(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from) { return {half_from(from), half_from(from + 32)}; }
RWKVQUANT_INLINE __m256i splat_half(std::uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
RWKVQUANT_INLINE Bytes splat_byte(std::uint8_t value) { return {splat_half(value), splat_half(value)}; }
template <int k>
RWKVQUANT_INLINE Bytes shift(Bytes a) {
    if constexpr (k > 0) return {_mm256_slli_epi16(a.top, k), _mm256_slli_epi16(a.bottom, k)};
    if constexpr (k < 0) return {_mm256_srli_epi16(a.top, -k), _mm256_srli_epi16(a.bottom, -k)};
    return a;
}
RWKVQUANT_INLINE Bytes mask(Bytes a, std::uint8_t m) {
    return {_mm256_and_si256(a.top, splat_half(m)), _mm256_and_si256(a.bottom, splat_half(m))};
}
RWKVQUANT_INLINE Bytes bits_or(Bytes a, Bytes b) { return {_mm256_or_si256(a.top, b.top), _mm256_or_si256(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Bytes select(std::uint8_t m, Bytes a, Bytes b) {
    return bits_or(mask(a, m), mask(b, static_cast<std::uint8_t>(~m)));
}
RWKVQUANT_INLINE Bytes index_of(Bytes code, std::uint8_t m, Bytes offset) { return bits_or(mask(code, m), offset); }
RWKVQUANT_INLINE Bytes lookup(Bytes tables, Bytes index) {
    return {_mm256_shuffle_epi8(tables.top, index.top), _mm256_shuffle_epi8(tables.bottom, index.bottom)};
}
template <int c>
RWKVQUANT_INLINE Ints column(Bytes a) {
    const __m256i byte = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(a.top, 8 * c), byte), _mm256_and_si256(_mm256_srli_epi32(a.bottom, 8 * c), byte)};
}

}  // namespace rwkvquant::RWKVQUANT_BODY

#include RWKVQUANT_DOT

namespace rwkvquant::RWKVQUANT_BODY {

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
    return {signed_dot_half(sum.top, x, entries.top), signed_dot_half(sum.bottom, x, entries.bottom)};
}

RWKVQUANT_INLINE Ints sixteenth(Ints a) { return {_mm256_srai_epi32(a.top, 4), _mm256_srai_epi32(a.bottom, 4)}; }

}  // namespace rwkvquant::RWKVQUANT_BODY

#include RWKVQUANT_NIBBLES

namespace rwkvquant::RWKVQUANT_BODY {

RWKVQUANT_INLINE Ints multiply_zeros(Ints zeros, std::int32_t factor) {
    const __m256i both = _mm256_set1_epi32(factor);
    return {_mm256_madd_epi16(zeros.top, both), _mm256_madd_epi16(zeros.bottom, both)};
}

// Eight rows of a plane of width p, each at bit p * row of `word`.
template <int p>
RWKVQUANT_INLINE __m256i plane_zeros(std::uint32_t word) {
    const __m256i places = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(p));
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), places), _mm256_set1_epi32((1 << p) - 1));
}
RWKVQUANT_INLINE Ints bits_or(Ints a, Ints b) { return {_mm256_or_si256(a.top, b.top), _mm256_or_si256(a.bottom, b.bottom)}; }

template <int bits>
RWKVQUANT_INLINE Ints zeros_of(const std::uint8_t* packed) {
    if constexpr (bits == 1) return {plane_zeros<1>(packed[0]), plane_zeros<1>(packed[1])};
    if constexpr (bits == 2) return {plane_zeros<2>(load<std::uint16_t>(packed)), plane_zeros<2>(load<std::uint16_t>(packed + 2))};
    if constexpr (bits == 3) return bits_or(zeros_of<2>(packed), times_power_of_two<2>(zeros_of<1>(packed + 4)));
    if constexpr (bits == 4) return {plane_zeros<4>(load<std::uint32_t>(packed)), plane_zeros<4>(load<std::uint32_t>(packed + 4))};
    if constexpr (bits > 4) return bits_or(zeros_of<4>(packed), times_power_of_two<4>(zeros_of<bits - 4>(packed + 8)));
}

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from, std::size_t count) {
    if (count == kStepBytes) return bytes_from(from);
    const __m256i zero = _mm256_setzero_si256();
    if (count == 48) return {half_from(from), _mm256_castsi128_si256(load<__m128i>(from + 32))};
    return {count == 32 ? half_from(from) : _mm256_inserti128_si256(zero, load<__m128i>(from), 0), zero};
}
template <int k>
RWKVQUANT_INLINE __m256i interleave_half(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = k < 2 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
    const __m256i cd = k < 2 ? _mm256_unpacklo_epi8(c, d) : _mm256_unpackhi_epi8(c, d);
    return k % 2 == 0 ? _mm256_unpacklo_epi16(ab, cd) : _mm256_unpackhi_epi16(ab, cd);
}
template <int k>
RWKVQUANT_INLINE Bytes interleave(Bytes a, Bytes b, Bytes c, Bytes d) {
    return {interleave_half<k>(a.top, b.top, c.top, d.top), interleave_half<k>(a.bottom, b.bottom, c.bottom, d.bottom)};
}

RWKVQUANT_INLINE std::size_t keep_nonzero(Floats values, std::uint32_t first, std::uint32_t* columns, float* to, std::size_t kept) {
    const auto nonzero = [](__m256 half) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(half, _mm256_setzero_ps(), _CMP_NEQ_UQ)));
    };
    float all[kTileRows];
    store(all, values);
    return keep_chosen(all, nonzero(values.top) | nonzero(values.bottom) << 8, first, columns, to, kept);
}

using Line = Bytes;
RWKVQUANT_INLINE Line line_from(const std::uint8_t* from) { return bytes_from(from); }
RWKVQUANT_INLINE Line mix(Line a, Line b) { return {_mm256_xor_si256(a.top, b.top), _mm256_xor_si256(a.bottom, b.bottom)}; }

// What was measured to be best for AVX2.
constexpr int kBlocks = 1, kVectors = 4;          // row-blocks and vectors multiplied together; each pair has a register of sums
constexpr int kDenseVectors = 1;                  // the same for a row of dense weights
constexpr int kEnough = 8;                        // sums at a time: with fewer, instructions wait for one another
constexpr bool kOneVectorLoop = true;             // whether one int8 vector has its own loop (product.h)
constexpr std::size_t kTablesAhead = 3072, kScalesAhead = 1024, kZerosAhead = 512;  // bytes to prefetch; for codes: prefetch.h
constexpr std::int32_t kEntryOffset = 0;          // added to the entries of its tables, where bytes must be unsigned
constexpr int kGroupPairs = 1;                    // of product_columnwise.cpp: 4 sums each, 8 registers
constexpr std::size_t kStripsAhead = 4;           // from prefetching to decoding (product_decoded.cpp): 6 KiB a row-block at 3 bits

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "tables_avx2.h"
