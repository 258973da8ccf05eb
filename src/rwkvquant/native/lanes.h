// The vocabulary of the products, in four spellings: AVX-512 (lanes_avx512.h), AVX2 (lanes_avx2.h), NEON (lanes_neon.h) and plain
// C++ (lanes_plain.h).
//
//     Ints     16 x int32, one a row          Floats   16 x float32, one a row
//     Bytes    64 x uint8, one step of a tile: byte 4r + c is row r and column c of four; 16 bytes are 4 rows, a lane of a shuffle
//
//     splat(v)  add(a, b)  multiply(a, b)  to_floats(ints)      as they say; every operation rounds on its own (-ffp-contract=off),
//                                                               so all spellings give the same bits
//     shift<k>(bytes)                 k > 0 to the left, k < 0 to the right; bits of neighbouring bytes may come in: mask afterwards
//     mask(bytes, m)                  bytes & m
//     select(m, a, b)                 (a & m) | (b & ~m)
//     index_of(code, m, offset)       (code & m) | offset
//     lookup(tables, index)           tables[index % 16] in each 16 bytes; bit 7 of an index must be 0
//     four_from(x)                    four activations, for all rows
//     dot<bits>(sum, bytes, four)     sum[r] + sum over c of byte[4r + c] * four[c]; bytes below 2^bits. Nothing saturates. The address
//                                     of four activations serves as well as `four`
//     multiply_zeros(zeros, factor)   zeros of at most 8 bits times a factor of at most 16, sign included, exactly
//     zeros_of<bits>(packed)          the zeros of 16 rows and one group, from 2 * bits bytes (tiles.h)
//     column<c>(bytes)                byte 4r + c of each row r
//     NibbleSums<bits>                sums over a tile of codes that lie two in a byte, see there
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(RWKVQUANT_AVX512) || defined(RWKVQUANT_AVX2)
#include <immintrin.h>
#elif defined(RWKVQUANT_NEON)
#include <arm_neon.h>
#else
#define RWKVQUANT_PLAIN
#endif

#include "tiles.h"

// Registers must stay registers through every function, so nothing is left to the compiler's judgement. Plain C++ has arrays, and
// would take minutes to compile.
#if defined(RWKVQUANT_PLAIN)
#define RWKVQUANT_ALWAYS
#else
#define RWKVQUANT_ALWAYS __attribute__((always_inline))
#endif
#define RWKVQUANT_INLINE_MEMBER inline RWKVQUANT_ALWAYS
#define RWKVQUANT_INLINE static RWKVQUANT_INLINE_MEMBER

namespace rwkvquant::RWKVQUANT_BODY {

// Packed arrays lie where the file has them; nothing is assumed to be aligned.
template <typename T>
RWKVQUANT_INLINE T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Asks for the lines of a tile that will be needed `ahead` bytes later. The hardware follows a stream, but stops at each 4 KiB
// page; asking 8 KiB ahead was worth 20 % from memory (docs/methods/tile.md). Beyond the end of an array it does nothing.
template <std::size_t bytes>
RWKVQUANT_INLINE void prefetch(const void* from, std::size_t ahead) {
    for (std::size_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + ahead + line);
}

template <int value>
struct Int {
    static constexpr int v = value;
};

// body(Int<0>{}) .. body(Int<n - 1>{}): a loop whose index is a constant, as shifts need.
template <int n, int i = 0, typename Body>
RWKVQUANT_INLINE void unroll(const Body& body) {
    if constexpr (i < n) {
        body(Int<i>{});
        unroll<n, i + 1>(body);
    }
}

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

}  // namespace rwkvquant::RWKVQUANT_BODY

#if defined(RWKVQUANT_AVX512)
#include "lanes_avx512.h"
#elif defined(RWKVQUANT_AVX2)
#include "lanes_avx2.h"
#elif defined(RWKVQUANT_NEON)
#include "lanes_neon.h"
#else
#include "lanes_plain.h"
#endif

#if !defined(RWKVQUANT_AVX512)
namespace rwkvquant::RWKVQUANT_BODY {

template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, const std::int8_t* x) {
    return dot<bits>(sum, a, four_from(x));
}

}  // namespace rwkvquant::RWKVQUANT_BODY
#endif
