// A packed matrix, the vectors it is multiplied with, and the rules of their product. The definition is kernels/product.py.
//
//     out[b, r] = sum over c of W[r, c] * x[b, c]        r in row_begin .. row_end
//
// Packed arrays are the raw bytes that the file holds, at any address; formats/layout.py says which array a layout has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

enum class Codec { kUniform, kCodebook, kPairs, kHalf, kBfloat, kFloat };

struct Matrix {
    Codec codec = Codec::kFloat;
    int bits = 0;       // of a code: uniform 1..8, codebook 2..4, pairs 4..8 (a code is two weights)
    int tile_cols = 0;  // 64 or 32; codebooks and pairs 32
    std::size_t rows = 0, cols = 0;

    std::size_t group_size = 0;  // uniform: columns that share a scale, a multiple of tile_cols, or of 32 with tiles of 32
    bool symmetric = false;      // uniform: the zero is 2^(bits-1), and `zeros` is null
    int scale_bits = 0;          // uniform: 8, scales of 8 bits times row_scale; 16, float16 scales, and row_scale is null

    std::size_t group_rows = 0;  // codebook: 2, 4, 8, 16 rows share a table; pairs: a multiple of 16
    int rank = 0, shift = 0;     // codebook: 0, `codebooks` are stored; 1..8, they are made from coefficients and basis

    const std::uint8_t* codes = nullptr;  // dense: the values, row by row
    const std::uint8_t* scales = nullptr;
    const std::uint8_t* row_scale = nullptr;
    const std::uint8_t* zeros = nullptr;
    const std::uint8_t* codebooks = nullptr;
    const std::uint8_t* coefficients = nullptr;
    const std::uint8_t* basis = nullptr;
};

// `count` vectors one after another. `padded` is cols up to the next multiple of 64, `groups` is padded / 64.
//
// q null is the path with float32 activations, the judge of the other one; it needs x. With q, quantised layouts read q, scale and
// minus_sum, and x may be null. Dense layouts read x alone, always.
struct Activations {
    const std::int8_t* q = nullptr;           // (count, padded), zeros in the padding
    const float* scale = nullptr;             // (count, groups): x is q * scale
    const std::int32_t* minus_sum = nullptr;  // (count, 2 groups): minus the sum of q over 64 columns, and over the second 32 of them
    const float* x = nullptr;                 // (count, padded), zeros in the padding
    std::size_t cols = 0, count = 0;
};

}  // namespace rwkvquant
