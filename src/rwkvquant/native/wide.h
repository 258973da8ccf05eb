// As many floats as a register has, and rounds of a Walsh-Hadamard transform between their lanes.
#pragma once

#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {

// GCC moves the lanes of vectors longer than a register one by one. `swapped` has value i ^ a in lane i.
#if defined(__clang__)
#define RWKVQUANT_SHUFFLE(x, places, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define RWKVQUANT_SHUFFLE(x, places, ...) __builtin_shuffle(x, places{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
typedef Vec Wide;
typedef BitsVec WideBits;
constexpr WideBits kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
template <int a>
RWKVQUANT_INLINE Wide swapped(Wide x) {
    return RWKVQUANT_SHUFFLE(x, IntVec, 0 ^ a, 1 ^ a, 2 ^ a, 3 ^ a, 4 ^ a, 5 ^ a, 6 ^ a, 7 ^ a, 8 ^ a, 9 ^ a, 10 ^ a, 11 ^ a, 12 ^ a, 13 ^ a,
                             14 ^ a, 15 ^ a);
}
#elif defined(__AVX__)
typedef Eight Wide;
typedef std::uint32_t WideBits __attribute__((vector_size(32)));
typedef std::int32_t WideInts __attribute__((vector_size(32)));
constexpr WideBits kLane = {0, 1, 2, 3, 4, 5, 6, 7};
template <int a>
RWKVQUANT_INLINE Wide swapped(Wide x) {
    return RWKVQUANT_SHUFFLE(x, WideInts, 0 ^ a, 1 ^ a, 2 ^ a, 3 ^ a, 4 ^ a, 5 ^ a, 6 ^ a, 7 ^ a);
}
#else
typedef Four Wide;
typedef std::uint32_t WideBits __attribute__((vector_size(16)));
typedef std::int32_t WideInts __attribute__((vector_size(16)));
constexpr WideBits kLane = {0, 1, 2, 3};
template <int a>
RWKVQUANT_INLINE Wide swapped(Wide x) {
    return RWKVQUANT_SHUFFLE(x, WideInts, 0 ^ a, 1 ^ a, 2 ^ a, 3 ^ a);
}
#endif
constexpr std::size_t kWide = sizeof(Wide) / sizeof(float);
typedef float AnyWide __attribute__((vector_size(sizeof(Wide)), aligned(4), may_alias));

// A round inside each of the parts, if they are wide enough: lanes that are `apart` become their sum and their difference.
template <int apart, std::size_t count>
RWKVQUANT_INLINE void round_inside(Wide (&y)[count]) {
    if constexpr (apart < static_cast<int>(kWide)) {
        const WideBits change = (kLane & apart) * (0x80000000 / apart);
        for (Wide& x : y) x = swapped<apart>(x) + (Wide)((WideBits)x ^ change);
    }
}

// A round between parts that are `apart`, as a sum and a difference.
template <std::size_t count>
RWKVQUANT_INLINE void round_between(Wide (&y)[count], std::size_t apart) {
    for (std::size_t i = 0; i < count; ++i) {
        if ((i & apart) != 0) continue;
        const Wide a = y[i], b = y[i + apart];
        y[i] = a + b, y[i + apart] = a - b;
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
