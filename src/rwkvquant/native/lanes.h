// Sixteen rows as one value, in three spellings: one 512-bit register, two 256-bit registers, or an array.
//
//     Ints    16 x int32, one a row         Floats   16 x float32, one a row
//
// Multiplication and addition round separately in every spelling (built with -ffp-contract=off), so all bodies give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(RWKVQUANT_AVX512) || defined(RWKVQUANT_AVX2)
#include <immintrin.h>
#endif

#include "tiles.h"

namespace rwkvquant::RWKVQUANT_BODY {

// Packed arrays lie where the file has them; nothing is assumed to be aligned.
template <typename T>
static inline T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Asks for the lines of a tile that will be needed `ahead` bytes later. The hardware follows a stream, but stops at each 4 KiB
// page; asking 8 KiB ahead was worth 20 % from memory (docs/methods/tile.md). Beyond the end of an array it does nothing.
template <std::size_t bytes>
static inline void prefetch(const void* from, std::size_t ahead) {
    for (std::size_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + ahead + line);
}

#if defined(RWKVQUANT_AVX512)

#if !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "this body needs -mavx512bw and -mavx512vnni"
#endif

using Ints = __m512i;
using Floats = __m512;

static inline Ints splat(std::int32_t value) { return _mm512_set1_epi32(value); }
static inline Floats splat(float value) { return _mm512_set1_ps(value); }
static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
static inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

// 16-bit products are enough: zeros are below 2^8, and |xsum| <= 64 * 128 < 2^15.
static inline Ints multiply_zeros(Ints zeros, std::int32_t xsum) {
    return _mm512_madd_epi16(zeros, _mm512_set1_epi32(xsum & 0xFFFF));
}
static inline Floats floats_from_u8(const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
static inline Floats floats_from_f16(const std::uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
static inline Ints uniform3_zeros(const Uniform3Zeros& zeros) {
    const Ints places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Ints low = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(load<std::int32_t>(zeros.low)), places), splat(3));
    return _mm512_mask_or_epi32(low, load<std::uint16_t>(zeros.high), low, splat(4));
}
static inline void store(float* out, Floats values, std::size_t rows) {
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>((1u << rows) - 1u), values);
}

#elif defined(RWKVQUANT_AVX2)

#if !defined(__AVX2__) || !defined(__F16C__)
#error "this body needs -mavx2 and -mf16c"
#endif

struct Ints {
    __m256i top, bottom;  // rows 0..7, rows 8..15
};
struct Floats {
    __m256 top, bottom;
};

static inline Ints splat(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
static inline Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
static inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.top, b.top), _mm256_add_ps(a.bottom, b.bottom)}; }
static inline Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.top, b.top), _mm256_mul_ps(a.bottom, b.bottom)}; }
static inline Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.top), _mm256_cvtepi32_ps(a.bottom)}; }

// 16-bit products are enough: zeros are below 2^8, and |xsum| <= 64 * 128 < 2^15.
static inline Ints multiply_zeros(Ints zeros, std::int32_t xsum) {
    const __m256i factor = _mm256_set1_epi32(xsum & 0xFFFF);
    return {_mm256_madd_epi16(zeros.top, factor), _mm256_madd_epi16(zeros.bottom, factor)};
}
static inline Floats floats_from_u8(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats({_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))});
}
static inline Floats floats_from_f16(const std::uint8_t* from) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
static inline Ints uniform3_zeros(const Uniform3Zeros& zeros) {
    const __m256i low = _mm256_set1_epi32(load<std::int32_t>(zeros.low));
    const __m256i high = _mm256_set1_epi32(load<std::uint16_t>(zeros.high) << 2);  // row r's bit at r + 2: shift by r, keep bit 2
    const __m256i rows = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), eight = _mm256_set1_epi32(8);
    const __m256i three = _mm256_set1_epi32(3), four = _mm256_set1_epi32(4);
    const auto eight_rows = [=](__m256i row) {
        const __m256i bits01 = _mm256_and_si256(_mm256_srlv_epi32(low, _mm256_add_epi32(row, row)), three);
        return _mm256_or_si256(bits01, _mm256_and_si256(_mm256_srlv_epi32(high, row), four));
    };
    return {eight_rows(rows), eight_rows(_mm256_add_epi32(rows, eight))};
}
static inline void store(float* out, Floats values, std::size_t rows) {
    float all[kTileRows];
    _mm256_storeu_ps(all, values.top);
    _mm256_storeu_ps(all + 8, values.bottom);
    std::memcpy(out, all, rows * sizeof(float));
}

#else  // plain C++

struct Ints {
    std::int32_t row[kTileRows];
};
struct Floats {
    float row[kTileRows];
};

template <typename Result, typename Function>
static inline Result each_row(Function function) {
    Result result;
    for (std::size_t r = 0; r < kTileRows; ++r) result.row[r] = function(r);
    return result;
}

// IEEE 754 binary16 -> binary32, exactly, subnormals, infinities and NaN included.
static inline float float_from_f16(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    const std::uint32_t bits = sign | wide << 23 | fraction << 13;
    return load<float>(&bits);
}

static inline Ints splat(std::int32_t value) {
    return each_row<Ints>([=](std::size_t) { return value; });
}
static inline Floats splat(float value) {
    return each_row<Floats>([=](std::size_t) { return value; });
}
static inline Floats add(const Floats& a, const Floats& b) {
    return each_row<Floats>([&](std::size_t r) { return a.row[r] + b.row[r]; });
}
static inline Floats multiply(const Floats& a, const Floats& b) {
    return each_row<Floats>([&](std::size_t r) { return a.row[r] * b.row[r]; });
}
static inline Floats to_floats(const Ints& a) {
    return each_row<Floats>([&](std::size_t r) { return static_cast<float>(a.row[r]); });
}
static inline Ints multiply_zeros(const Ints& zeros, std::int32_t xsum) {
    return each_row<Ints>([&](std::size_t r) { return zeros.row[r] * xsum; });
}
static inline Floats floats_from_u8(const std::uint8_t* from) {
    return each_row<Floats>([=](std::size_t r) { return static_cast<float>(from[r]); });
}
static inline Floats floats_from_f16(const std::uint8_t* from) {
    return each_row<Floats>([=](std::size_t r) { return float_from_f16(static_cast<std::uint16_t>(from[2 * r] | from[2 * r + 1] << 8)); });
}
static inline Ints uniform3_zeros(const Uniform3Zeros& zeros) {
    return each_row<Ints>([&](std::size_t r) {
        const int low = zeros.low[r / 4] >> 2 * (r % 4) & 3, high = zeros.high[r / 8] >> r % 8 & 1;
        return low | high << 2;
    });
}
static inline void store(float* out, const Floats& values, std::size_t rows) { std::memcpy(out, values.row, rows * sizeof(float)); }

#endif

}  // namespace rwkvquant::RWKVQUANT_BODY
