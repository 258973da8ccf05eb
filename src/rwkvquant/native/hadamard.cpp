// The block-wise randomised Hadamard transform of an activation; the definition is kernels/hadamard.py.
//
//     y = diag(H_b, ..., H_b) D x / sqrt(b)        b  the largest power of two that divides the number of columns
//
// Each sum is one addition, in the order of the definition, so all bodies give its bits.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

typedef std::uint32_t FourBits __attribute__((vector_size(16)));

// x, with the sign changed in the lanes that `change` has a sign bit for.
RWKVQUANT_INLINE Four flipped(Four x, FourBits change) { return (Four)((FourBits)x ^ change); }

RWKVQUANT_INLINE Four load_four(const float* from) {
    Four values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

// y = D x, and the rounds inside sixteen values, 1, 2, 4 and 8 apart. In pieces of four lanes, because GCC moves lanes of longer vectors
// one by one where a register is shorter.
RWKVQUANT_INLINE void sixteen(const float* x, const std::uint8_t* signs, float* y) {
    constexpr std::uint32_t kSign = 0x80000000;
    Four parts[4];
    for (std::size_t i = 0; i < 4; ++i) {
        const std::uint32_t bits = signs[i / 2] >> (i % 2 * 4);
        const FourBits set = FourBits{bits, bits, bits, bits} & FourBits{1, 2, 4, 8};
        const FourBits change = set * FourBits{kSign, kSign / 2, kSign / 4, kSign / 8};
        const Four a = flipped(load_four(x + 4 * i), change);
        const Four b = pick<1, 0, 3, 2>(a, a) + flipped(a, FourBits{0, kSign, 0, kSign});
        parts[i] = pick<2, 3, 0, 1>(b, b) + flipped(b, FourBits{0, 0, kSign, kSign});
    }
    const Four ab = parts[0] + parts[1], a_b = parts[0] - parts[1], cd = parts[2] + parts[3], c_d = parts[2] - parts[3];
    const Four whole[4] = {ab + cd, a_b + c_d, ab - cd, a_b - c_d};
    std::memcpy(y, whole, sizeof whole);
}

// A round whose values are `apart`, a multiple of 16.
RWKVQUANT_INLINE void round_of(float* y, std::size_t cols, std::size_t apart) {
    for (std::size_t begin = 0; begin < cols; begin += 2 * apart) {
        for (std::size_t c = begin; c < begin + apart; c += kLanes) {
            const Vec a = load(y + c), b = load(y + c + apart);
            store(y + c, a + b);
            store(y + c + apart, a - b);
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
    for (std::size_t c = 0; c < cols; c += kLanes) sixteen(x + c, signs + c / 8, y + c);
    for (std::size_t apart = kLanes; apart < size; apart *= 2) round_of(y, cols, apart);
    for (std::size_t c = 0; c < cols; c += kLanes) store(y + c, load(y + c) * scale);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
