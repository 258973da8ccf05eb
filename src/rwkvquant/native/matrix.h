// A packed matrix and the vectors it is multiplied with. The definition of the product is kernels/product.py.
//
//     out[b, r] = sum over c of W[r, c] * x[b, c]        r in row_begin .. row_end
//
// Packed arrays are the raw bytes of the file, at any address; each codec says which arrays it has (codec.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

// T of an input x of `cols` values: x is divided first, and then rotated.
struct InputTransform {
    const std::uint8_t* signs = nullptr;  // (cols / 8, rounded up) the bits of D of a randomised Hadamard transform: hadamard.cpp
    const float* divisors = nullptr;      // (cols,) x is divided by them

    explicit operator bool() const { return signs != nullptr || divisors != nullptr; }
};

struct Matrix {
    std::size_t codec = 0;  // its place in the list of codecs.cpp
    std::size_t rows = 0, cols = 0;
    std::size_t bytes = 0;  // of all its arrays
    std::size_t width = 0;  // bits of a code, set by the codec: how memory is best asked for depends on it
    std::size_t kind = 0;   // among the codecs and widths of a model, set by the engine: its place in prefetch.h
    InputTransform transform;  // the matrix is for T x. Products take T x; the engine makes it

    // What only the codec knows: its numbers, and where its arrays begin. The struct that is stored here is in the codec's file.
    static constexpr std::size_t kFieldBytes = 112;
    alignas(8) unsigned char fields[kFieldBytes] = {};
};

// How many bytes ahead the codes of a product with one vector are asked for: prefetch.h.
struct Ahead {
    std::size_t far = 0;
    std::size_t near = 0;  // 0: `far` brings them into the first cache. Else `far` brings them into the second, and `near` into the first.

    bool operator==(const Ahead&) const = default;
};

// `count` vectors one after another. `padded` is cols up to the next multiple of 64, `groups` is padded / 64.
//
// With q null, activations are float32 and x is needed: the reference for the int8 path. With q, quantised codecs read q, scale and
// minus_sum, and x may be null. Dense codecs always read x.
struct Activations {
    const std::int8_t* q = nullptr;           // (count, padded), zeros in the padding
    const float* scale = nullptr;             // (count, groups): x is q * scale
    const std::int32_t* minus_sum = nullptr;  // (count, 2 groups): minus the sum of q over 64 columns, and over the second 32 of them
    const float* x = nullptr;                 // (count, padded), zeros in the padding
    const void* prepared = nullptr;           // (count,) what the codec made of x, if it asks for that (codec.h, ColumnSums)
    std::size_t cols = 0, count = 0;
    Ahead ahead;
    std::size_t together = 64;                // 1 to 256: the most vectors that are multiplied with a tile before the next one is decoded
};

}  // namespace rwkvquant
