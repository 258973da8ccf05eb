// What the parts of `product` share. A codec has two faces: a product with one int8 vector, as fast as memory; and a decoder of
// 16 rows x 64 columns, from which product_decoded.cpp multiplies any number of vectors, int8 or float32.
#pragma once

#include "lanes.h"
#include "matrix.h"

namespace rwkvquant::RWKVQUANT_BODY {

constexpr int kGroupSteps = 16;  // of 4 columns: one activation group

// 16 rows x one activation group. A piece is a run of its columns inside one weight group: one, or two of 8 steps.
struct Piece {
    int steps;
    Floats scale;
    Ints zero;
};
struct Decoded {
    Bytes step[kGroupSteps];
    int pieces;
    Piece piece[2];
};

// `decode` fills decoded[0 .. count) for rows 16 * block .. and columns 64 * group .. 64 * (group + count).
struct Decoder {
    void (*decode)(const void* source, const Matrix& matrix, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded);
    const void* source;       // what the codec prepared once for the matrix, or null
    int value_bits;           // 7 or 8: decoded bytes are below 2^value_bits
    std::size_t group_bytes;  // of the codes of 16 rows x one activation group
    std::size_t block_bytes;  // of the codes of 16 rows
};

void product_decoded(const Decoder& decoder, const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride,
                     std::size_t row_begin, std::size_t row_end);

// Row-blocks and vectors multiplied side by side. Each pair of them has a register of sums; four activations are spread over a
// register once for all row-blocks.
#if defined(RWKVQUANT_AVX512)
constexpr int kBlocks = 2, kVectors = 8;
#elif defined(RWKVQUANT_AVX2)
constexpr int kBlocks = 1, kVectors = 4;
#elif defined(RWKVQUANT_NEON)
constexpr int kBlocks = 1, kVectors = 4;
#else
constexpr int kBlocks = 1, kVectors = 1;
#endif

// A codec takes one int8 vector itself and hands everything else to product_decoded.
void product_uniform(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                     std::size_t row_end);
void product_codebook(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                      std::size_t row_end);
void product_pairs(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                   std::size_t row_end);
void product_dense(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                   std::size_t row_end);

// Plain C++ is bound by arithmetic whatever it does, and has the second face alone.
#if defined(RWKVQUANT_PLAIN)
constexpr bool kOneVectorFace = false;
#else
constexpr bool kOneVectorFace = true;
#endif
RWKVQUANT_INLINE bool is_one_int8_vector(const Activations& activations) { return activations.count == 1 && activations.q != nullptr; }

// Rows of a row-block that lie inside the range.
RWKVQUANT_INLINE std::size_t rows_left(std::size_t row, std::size_t row_end) {
    return row_end - row < kTileRows ? row_end - row : kTileRows;
}

}  // namespace rwkvquant::RWKVQUANT_BODY
