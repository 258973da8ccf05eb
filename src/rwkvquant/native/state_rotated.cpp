// The matrix of a head between tokens, in 8 bits a value, rotated and rounded at random; the definition is kernels/state_rotated.py.
//
//     T = S H        d = max |T| / (127 b), 11 bits        Z = floor(T / (b d) + u)        a row: N bytes Z, then d
//
// Whole numbers are made by adding a number whose unit in the last place is 1. So NaN and infinity give some code, and nothing undefined.
#include "operations.h"
#include "vectors.h"
#include "wide.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr float kNothing = 1e-30f;
constexpr std::int32_t kMost = 127;
constexpr std::size_t kBlock = 64;
constexpr int kFraction = 14, kDropped = 13;
constexpr std::uint32_t kGolden = 0x9E3779B9, kMagnitude = 0x7FFFFFFF;

RWKVQUANT_INLINE constexpr std::uint32_t mixed(std::uint32_t x) {
    x = (x ^ x >> 16) * 0x21F0AAAD;
    x = (x ^ x >> 15) * 0xD35A2D97;
    return x ^ x >> 15;
}

struct Multipliers {
    std::uint32_t of[kBlock];
};
constexpr Multipliers kMultipliers = [] {
    Multipliers all = {};
    for (std::uint32_t c = 0; c < kBlock; ++c) all.of[c] = mixed(c + 1) | 1;
    return all;
}();

RWKVQUANT_INLINE std::size_t block_of(std::size_t size) {
    const std::size_t own = size & (~size + 1);
    return own < kBlock ? own : kBlock;
}

constexpr std::size_t kParts = kBlock / kWide;

// y H times `scale` of 64 values, in place, in registers. Rounds of 32, 16, 8, 4, 2 and 1.
RWKVQUANT_INLINE void turn_block(float* y, float scale) {
    Wide parts[kParts];
    for (std::size_t i = 0; i < kParts; ++i) parts[i] = *reinterpret_cast<const AnyWide*>(y + kWide * i);
    for (std::size_t apart = kParts / 2; apart > 0; apart /= 2) round_between(parts, apart);
    round_inside<8>(parts), round_inside<4>(parts), round_inside<2>(parts), round_inside<1>(parts);
    for (std::size_t i = 0; i < kParts; ++i) *reinterpret_cast<AnyWide*>(y + kWide * i) = parts[i] * scale;
}

// The same for rows of `size` values.
RWKVQUANT_INLINE void turn(float* y, std::size_t size, float scale) {
    const std::size_t block = block_of(size);
    if (block == kBlock) {
        for (std::size_t c = 0; c < size; c += kBlock) turn_block(y + c, scale);
        return;
    }
    for (std::size_t apart = block / 2; apart > 0; apart /= 2) {
        for (std::size_t c = 0; c < size; ++c) {
            if ((c & apart) != 0) continue;
            const float a = y[c], b = y[c + apart];
            y[c] = a + b, y[c + apart] = a - b;
        }
    }
    for (std::size_t c = 0; c < size; ++c) y[c] *= scale;
}

// The bits of magnitudes, compared as whole numbers, have the right order, with infinity and NaN above all others.
RWKVQUANT_INLINE std::uint32_t largest(const float* T, std::size_t count) {
    std::uint32_t most = 0;
    for (std::size_t c = 0; c < count; ++c) {
        const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, T[c]) & kMagnitude;
        most = bits > most ? bits : most;
    }
    return most;
}

// Plain, because compilers make better vectors of it than of the compiler's vector types, where 32 bits become 8.
RWKVQUANT_INLINE void round_values(const float* __restrict T, std::size_t count, float inverse, std::uint32_t top, std::uint32_t key,
                                   std::uint8_t* __restrict Z) {
    for (std::size_t c = 0; c < count; ++c) {
        const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, T[c]);
        const std::uint32_t u = key * kMultipliers.of[c] >> (32 - kFraction);
        const std::uint32_t x = __builtin_bit_cast(std::uint32_t, T[c] * inverse + 0x1.8p23f) - __builtin_bit_cast(std::uint32_t, 0x1.8p23f);
        const std::uint32_t twice = (bits & kMagnitude) == top ? x : 0;  // of the largest, so it is far beyond the end and becomes 127
        const std::int32_t wide = static_cast<std::int32_t>(x + twice + u) >> kFraction, below = wide < kMost ? wide : kMost;
        Z[c] = static_cast<std::uint8_t>(below > -kMost ? below : -kMost);
    }
}

RWKVQUANT_INLINE void pack_row(const float* T, std::size_t size, std::uint32_t seed, std::size_t index, std::uint8_t* row) {
    const std::size_t block = block_of(size), chunks = (size + kBlock - 1) / kBlock;
    const std::uint32_t top = largest(T, size);
    if (__builtin_bit_cast(float, top) < kNothing) {
        std::memset(row, 0, size + sizeof(float));
        return;
    }
    const auto key = [&](std::size_t chunk) { return mixed(seed + static_cast<std::uint32_t>(index * chunks + chunk) * kGolden); };
    const float exact = __builtin_bit_cast(float, top) / static_cast<float>(kMost * block);
    const std::uint32_t rounded = (__builtin_bit_cast(std::uint32_t, exact) + (key(0) >> (32 - kDropped))) >> kDropped << kDropped;
    const float step = __builtin_bit_cast(float, rounded), inverse = static_cast<float>(1 << kFraction) / (step * static_cast<float>(block));
    for (std::size_t begin = 0; begin < size; begin += kBlock) {
        round_values(T + begin, size - begin < kBlock ? size - begin : kBlock, inverse, top, key(begin / kBlock), row + begin);
    }
    std::memcpy(row + size, &step, sizeof step);
}

RWKVQUANT_INLINE void widen(const std::uint8_t* __restrict Z, std::size_t size, float* __restrict S) {
    for (std::size_t c = 0; c < size; ++c) S[c] = static_cast<float>(static_cast<std::int8_t>(Z[c]));
}

RWKVQUANT_INLINE void pack_rows(float* S, std::size_t size, std::uint32_t seed, std::uint8_t* rows) {
    for (std::size_t row = 0; row < size; ++row) turn(S + row * size, size, 1.0f);
    for (std::size_t row = 0; row < size; ++row) pack_row(S + row * size, size, seed, row, rows + row * (size + sizeof(float)));
}

RWKVQUANT_INLINE void unpack_rows(const std::uint8_t* rows, std::size_t size, float* S) {
    for (std::size_t row = 0; row < size; ++row) {
        float step;
        std::memcpy(&step, rows + row * (size + sizeof step) + size, sizeof step);
        widen(rows + row * (size + sizeof step), size, S + row * size);
        turn(S + row * size, size, step);
    }
}

}  // namespace

RWKVQUANT_FLATTEN void pack_rotated(float* S, std::size_t size, std::uint32_t seed, std::uint8_t* rows) {
    size == 64 ? pack_rows(S, 64, seed, rows) : pack_rows(S, size, seed, rows);
}

RWKVQUANT_FLATTEN void unpack_rotated(const std::uint8_t* rows, std::size_t size, float* S) {
    size == 64 ? unpack_rows(rows, 64, S) : unpack_rows(rows, size, S);
}

std::uint32_t seed_of_rows(const std::uint8_t* rows, std::size_t size) {
    const std::size_t words = size * (size + sizeof(float)) / sizeof(std::uint32_t);
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < words; ++i) {
        std::uint32_t word;
        std::memcpy(&word, rows + i * sizeof word, sizeof word);
        sum += (word ^ word >> 16) * (static_cast<std::uint32_t>(i) * kGolden | 1);
    }
    return mixed(sum);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
