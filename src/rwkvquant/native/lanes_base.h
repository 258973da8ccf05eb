// What every header of lanes (lanes.h) includes first. Each defines RWKVQUANT_ALWAYS before: it forces inlining, so that values stay in
// registers through every function. Only lanes_plain.h leaves it empty: with its arrays forced inlining would take minutes to compile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "matrix.h"
#include "tiles.h"

#define RWKVQUANT_INLINE_MEMBER inline RWKVQUANT_ALWAYS
#define RWKVQUANT_INLINE static RWKVQUANT_INLINE_MEMBER

namespace rwkvquant::RWKVQUANT_BODY {

// Packed arrays are where the file has them, so no alignment is assumed.
template <typename T>
RWKVQUANT_INLINE T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Prefetches the lines of a tile that are `ahead` bytes later. The hardware follows a stream, but stops at each 4 KiB page. Past the end of
// an array it does no harm.
template <std::size_t bytes>
RWKVQUANT_INLINE void prefetch(const void* from, std::size_t ahead) {
    for (std::size_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + ahead + line);
}
template <std::size_t bytes>
RWKVQUANT_INLINE void prefetch(const void* from, Ahead ahead) {
    if (ahead.near == 0) return prefetch<bytes>(from, ahead.far);
    for (std::size_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + ahead.far + line, 0, 2);
    prefetch<bytes>(from, ahead.near);
}

template <int value>
struct Int {
    static constexpr int v = value;
};

// body(Int<0>{}) .. body(Int<n - 1>{}): a loop whose index is a constant, which shifts need.
template <int n, int i = 0, typename Body>
RWKVQUANT_INLINE void unroll(const Body& body) {
    if constexpr (i < n) {
        body(Int<i>{});
        unroll<n, i + 1>(body);
    }
}

static constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// IEEE 754 binary16 -> binary32, exactly, including subnormals, infinities and NaN.
RWKVQUANT_INLINE float float_from_f16(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    const std::uint32_t bits = sign | wide << 23 | fraction << 13;
    return load<float>(&bits);
}

// `keep_nonzero` of lanes.h, from a bit for each of 16 values.
RWKVQUANT_INLINE std::size_t keep_chosen(const float* values, unsigned chosen, std::uint32_t first, std::uint32_t* columns, float* to,
                                         std::size_t kept) {
    for (; chosen != 0; chosen &= chosen - 1, ++kept) {
        const unsigned place = static_cast<unsigned>(__builtin_ctz(chosen));
        columns[kept] = first + place;
        to[kept] = values[place];
    }
    return kept;
}

// Element `index` of a float16 array at any address.
RWKVQUANT_INLINE float half_at(const std::uint8_t* from, std::size_t index) { return float_from_f16(load<std::uint16_t>(from + 2 * index)); }

}  // namespace rwkvquant::RWKVQUANT_BODY
