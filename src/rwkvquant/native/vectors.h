// Sixteen floats as one value, by the compiler's vector types: one zmm register, two ymm or four xmm, from the same source.
//
// Everything except the matrix products is written with it: norms, token shift, gates and the recurrences. Each operation rounds by itself
// (built with -ffp-contract=off) and every sum has one order, so all instruction sets give the same bits, also for exp and tanh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rwkvquant::RWKVQUANT_BODY {

#define RWKVQUANT_INLINE [[gnu::always_inline]] static inline
#define RWKVQUANT_FLATTEN [[gnu::flatten]]

constexpr std::size_t kLanes = 16;

typedef float Vec __attribute__((vector_size(64)));
typedef std::int32_t IntVec __attribute__((vector_size(64)));
typedef std::uint32_t BitsVec __attribute__((vector_size(64)));  // unsigned, because a signed sum must not wrap around

RWKVQUANT_INLINE Vec spread(float value) { return value - Vec{}; }

RWKVQUANT_INLINE Vec load(const float* from) {
    Vec values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

RWKVQUANT_INLINE void store(float* to, Vec values) { std::memcpy(to, &values, sizeof values); }

// The first `count` floats, and zeros after them.
RWKVQUANT_INLINE Vec load(const float* from, std::size_t count) {
    Vec values = {};
    std::memcpy(&values, from, (count < kLanes ? count : kLanes) * sizeof(float));
    return values;
}

RWKVQUANT_INLINE void store(float* to, Vec values, std::size_t count) {
    std::memcpy(to, &values, (count < kLanes ? count : kLanes) * sizeof(float));
}

typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

// Lanes i and i + 8, then i and i + 4.
RWKVQUANT_INLINE Four sum_to_four(Vec values) {
    Eight halves[2];
    std::memcpy(halves, &values, sizeof halves);
    const Eight eight = halves[0] + halves[1];
    Four quarters[2];
    std::memcpy(quarters, &eight, sizeof quarters);
    return quarters[0] + quarters[1];
}

// Lanes i and i + 8, then i and i + 4, i and i + 2, 0 and 1: the order of every sum over lanes.
RWKVQUANT_INLINE float sum(Vec values) {
    const Four four = sum_to_four(values);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// Lanes of a (0 to 3) and b (4 to 7).
template <int i, int j, int k, int l>
RWKVQUANT_INLINE Four pick(Four a, Four b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, i, j, k, l);
#else
    typedef std::int32_t Places __attribute__((vector_size(16)));
    return __builtin_shuffle(a, b, Places{i, j, k, l});
#endif
}

// The sums of four vectors, each in the order of `sum`, with two thirds of the instructions.
RWKVQUANT_INLINE Four sums(const Vec (&values)[4]) {
    const Four a = sum_to_four(values[0]), b = sum_to_four(values[1]), c = sum_to_four(values[2]), d = sum_to_four(values[3]);
    const Four ab = pick<0, 1, 4, 5>(a, b) + pick<2, 3, 6, 7>(a, b), cd = pick<0, 1, 4, 5>(c, d) + pick<2, 3, 6, 7>(c, d);
    return pick<0, 2, 4, 6>(ab, cd) + pick<1, 3, 5, 7>(ab, cd);
}

// Calls function(column, lanes in use) for whole vectors, and for a last one of fewer lanes. Functions that use it are RWKVQUANT_FLATTEN,
// so that `function` is inlined twice, once with the constant 16: with a variable count every load calls memcpy (keys7 took 3 % of
// decoding).
template <typename Function>
RWKVQUANT_INLINE void each_vector(std::size_t begin, std::size_t end, Function function) {
    for (; begin + kLanes <= end; begin += kLanes) function(begin, kLanes);
    if (begin < end) function(begin, end - begin);
}

RWKVQUANT_INLINE Vec absolute(Vec x) { return (Vec)((IntVec)x & 0x7FFFFFFF); }

// exp for x <= 88, to 2 units in the last place; 0 below -87.3, where float32 has only subnormals. Constants: Cephes, expf.
RWKVQUANT_INLINE Vec exponential(Vec x) {
    const Vec magic = spread(0x1.8p23f);  // adding it rounds to a whole number, which is then in the lowest bits
    const Vec shifted = x * 1.44269504088896341f + magic, n = shifted - magic;
    const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // x - n log 2; the first product is exact
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const BitsVec power = ((BitsVec)shifted - (BitsVec)magic) << 23;  // may be anything in lanes below -87.3
    const Vec scaled = (Vec)((BitsVec)p + power);
    return x < -87.3f ? Vec{} : (x == x ? scaled : x);  // NaN stays NaN
}

RWKVQUANT_INLINE Vec sigmoid(Vec x) {
    const Vec small = exponential(-absolute(x));
    return (x >= 0.0f ? spread(1.0f) : small) / (1.0f + small);
}

// Cephes, tanhf: a polynomial near 0, where 1 - 2 / (e^2x + 1) would lose all its digits.
RWKVQUANT_INLINE Vec tangent(Vec x) {
    const Vec size = absolute(x), z = x * x;
    Vec p = z * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const Vec near = p * z * x + x;
    const Vec far = 1.0f - 2.0f / (exponential(2.0f * (size > 10.0f ? spread(10.0f) : size)) + 1.0f);
    return size < 0.625f ? near : (x < 0.0f ? -far : far);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
