// The block-wise randomised Hadamard transform of an activation; the definition is kernels/hadamard.py.
//
//     y = diag(H_b, ..., H_b) D x / sqrt(b)        b  the largest power of two that divides the number of columns
//
// Each sum is one addition, in the order of the definition, so all bodies give its bits.
#include "operations.h"
#include "vectors.h"
#include "wide.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// The bits of D for the lanes of one part: a sign bit where it is -1.
RWKVQUANT_INLINE WideBits changes(const std::uint8_t* signs, std::size_t column) {
    std::uint32_t bits = signs[column / 8] >> column % 8;
    if constexpr (kWide > 8) bits |= static_cast<std::uint32_t>(signs[column / 8 + 1]) << 8;
    const WideBits all = bits - WideBits{};
    return (WideBits)((all >> kLane & 1) << 31);
}

// y = D x, and the first rounds, inside `count` values, in registers. With a scale that is not 1 they are all rounds.
template <std::size_t count>
RWKVQUANT_INLINE void first_rounds(const float* x, const std::uint8_t* signs, std::size_t column, float scale, float* y) {
    constexpr std::size_t kParts = count / kWide;
    Wide parts[kParts];
    for (std::size_t i = 0; i < kParts; ++i) {
        const std::size_t c = column + kWide * i;
        const Wide values = *reinterpret_cast<const AnyWide*>(x + c);
        parts[i] = (Wide)((WideBits)values ^ changes(signs, c));
    }
    round_inside<1>(parts), round_inside<2>(parts), round_inside<4>(parts), round_inside<8>(parts);
    for (std::size_t apart = 1; apart < kParts; apart *= 2) round_between(parts, apart);
    for (std::size_t i = 0; i < kParts; ++i) {
        *reinterpret_cast<AnyWide*>(y + column + kWide * i) = scale == 1.0f ? parts[i] : parts[i] * scale;
    }
}

template <std::size_t count>
RWKVQUANT_INLINE void all_first_rounds(const float* x, const std::uint8_t* signs, std::size_t cols, float scale, float* y) {
    for (std::size_t c = 0; c < cols; c += count) first_rounds<count>(x, signs, c, scale, y);
}

// A round whose values are `apart`, a multiple of 16, and with `two` the next one too.
template <bool two>
RWKVQUANT_INLINE void later_rounds(float* y, std::size_t cols, std::size_t apart, float scale) {
    constexpr std::size_t kRows = two ? 4 : 2;
    for (std::size_t begin = 0; begin < cols; begin += kRows * apart) {
        for (std::size_t c = begin; c < begin + apart; c += kWide) {
            Wide rows[kRows];
            for (std::size_t i = 0; i < kRows; ++i) rows[i] = *reinterpret_cast<const AnyWide*>(y + c + i * apart);
            round_between(rows, 1);
            if constexpr (two) round_between(rows, 2);
            for (std::size_t i = 0; i < kRows; ++i) *reinterpret_cast<AnyWide*>(y + c + i * apart) = rows[i] * scale;
        }
    }
}

}  // namespace

RWKVQUANT_FLATTEN void hadamard(const float* x, const std::uint8_t* signs, std::size_t cols, float* y) {
    const std::size_t size = cols & (~cols + 1);
    float scale = 1.0f;  // 1 / sqrt(size), rounded: a power of two, or 1 / sqrt(2) times one
    std::size_t left = size;
    for (; left >= 4; left /= 4) scale /= 2;
    if (left == 2) scale *= 0.70710678118654752440f;
    if (size < kLanes) {
        for (std::size_t c = 0; c < cols; ++c) y[c] = signs[c / 8] >> (c % 8) & 1 ? -x[c] : x[c];
        for (std::size_t apart = 1; apart < size; apart *= 2) {
            for (std::size_t c = 0; c < cols; ++c) {
                if ((c & apart) != 0) continue;
                const float a = y[c], b = y[c + apart];
                y[c] = a + b, y[c + apart] = a - b;
            }
        }
        for (std::size_t c = 0; c < cols; ++c) y[c] *= scale;
        return;
    }
    // The scale comes with the last rounds: one multiplication after all additions. Multiplying by 1 before changes nothing.
    if (size == kLanes) return all_first_rounds<kLanes>(x, signs, cols, scale, y);
    if (size == 2 * kLanes) return all_first_rounds<2 * kLanes>(x, signs, cols, scale, y);
    constexpr std::size_t kFirst = 4 * kLanes;
    all_first_rounds<kFirst>(x, signs, cols, size == kFirst ? scale : 1.0f, y);
    for (std::size_t apart = kFirst; apart < size; apart *= 4) {
        const float last = 4 * apart >= size ? scale : 1.0f;
        if (2 * apart < size) later_rounds<true>(y, cols, apart, last);
        else later_rounds<false>(y, cols, apart, last);
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
