// The matrix of a head between tokens, in 12 bits a value; the definition is kernels/state_rows.py.
//
//     d = max |S| / 2032        Y = round(S / d) = 16 Q + E        a row: N bytes Q, N / 2 bytes E + 8, then d
//
// Y is rounded by adding a number whose unit in the last place is 1. So NaN and infinity give some code, and nothing undefined.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr float kMost = 16 * 127, kNothing = 1e-30f;

// The bits of magnitudes, compared as whole numbers, have the right order, with infinity and NaN above all others.
RWKVQUANT_INLINE float largest(const float* S, std::size_t size) {
    std::uint32_t most = 0;
    for (std::size_t c = 0; c < size; ++c) {
        const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, S[c]) & 0x7FFFFFFF;
        most = bits > most ? bits : most;
    }
    return __builtin_bit_cast(float, most);
}

// 16 Q + (E + 8)
RWKVQUANT_INLINE std::uint32_t raised(float value, float inverse) {
    return __builtin_bit_cast(std::uint32_t, value * inverse + 0x1.8p23f) - __builtin_bit_cast(std::uint32_t, 0x1.8p23f) + 8;
}

// The loops over bytes are plain, because compilers make better vectors of them than GCC 12 does of __builtin_convertvector from 8 to 32
// bits; with a `size` that is a constant. They are in functions of their own so that `restrict` holds.
RWKVQUANT_INLINE void pack_row(const float* __restrict S, std::size_t size, std::uint8_t* __restrict row) {
    const std::size_t half = size / 2;
    const float top = largest(S, size), inverse = top < kNothing ? 0.0f : kMost / top, step = top < kNothing ? 0.0f : top / kMost;
    for (std::size_t c = 0; c < half; ++c) {
        const std::uint32_t low = raised(S[c], inverse), high = raised(S[half + c], inverse);
        row[c] = static_cast<std::uint8_t>(low >> 4);
        row[half + c] = static_cast<std::uint8_t>(high >> 4);
        row[size + c] = static_cast<std::uint8_t>((low & 15) | (high << 4));
    }
    std::memcpy(row + size + half, &step, sizeof step);
}

RWKVQUANT_INLINE void unpack_row(const std::uint8_t* __restrict row, std::size_t size, float* __restrict S) {
    const std::size_t half = size / 2;
    float step;
    std::memcpy(&step, row + size + half, sizeof step);
    for (std::size_t c = 0; c < half; ++c) {
        const int low = static_cast<std::int8_t>(row[c]), high = static_cast<std::int8_t>(row[half + c]), both = row[size + c];
        S[c] = static_cast<float>(16 * low + (both & 15) - 8) * step;
        S[half + c] = static_cast<float>(16 * high + (both >> 4) - 8) * step;
    }
}

RWKVQUANT_INLINE void pack_rows(const float* S, std::size_t size, std::uint8_t* rows) {
    for (std::size_t row = 0; row < size; ++row) pack_row(S + row * size, size, rows + row * (size + size / 2 + sizeof(float)));
}

RWKVQUANT_INLINE void unpack_rows(const std::uint8_t* rows, std::size_t size, float* S) {
    for (std::size_t row = 0; row < size; ++row) unpack_row(rows + row * (size + size / 2 + sizeof(float)), size, S + row * size);
}

}  // namespace

RWKVQUANT_FLATTEN void pack_state(const float* S, std::size_t size, std::uint8_t* rows) {
    size == 64 ? pack_rows(S, 64, rows) : pack_rows(S, size, rows);
}

RWKVQUANT_FLATTEN void unpack_state(const std::uint8_t* rows, std::size_t size, float* S) {
    size == 64 ? unpack_rows(rows, 64, S) : unpack_rows(rows, size, S);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
