// What the files of the codecs share. A codec has two loops: a product with one int8 vector, as fast as memory; and a decoder of 16 rows x
// 64 columns, with which product_decoded.cpp multiplies any number of vectors, int8 or float32.
#pragma once

#include "codec.h"
#include "lanes.h"

namespace rwkvquant::RWKVQUANT_BODY {

// Copies a codec's own struct into the matrix, and out of it.
template <typename Fields>
RWKVQUANT_INLINE void keep(const Fields& own, Matrix& matrix) {
    static_assert(sizeof(Fields) <= Matrix::kFieldBytes && __is_trivially_copyable(Fields));
    std::memcpy(matrix.fields, &own, sizeof own);
}
template <typename Fields>
RWKVQUANT_INLINE Fields kept(const Matrix& matrix) {
    return load<Fields>(matrix.fields);
}

// Bytes of the codes of a matrix in tiles of 16 rows.
RWKVQUANT_INLINE std::size_t tiled_bytes(std::size_t rows, std::size_t codes_of_row, std::size_t tile_cols, std::size_t bits) {
    return ceil_divide(rows, kTileRows) * kTileRows * (ceil_divide(codes_of_row, tile_cols) * tile_cols) * bits / 8;
}

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
    void (*decode)(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded);
    const void* source;               // what the codec prepared for the matrix
    std::size_t cols;                 // of the matrix
    const std::uint8_t* codes;        // of all row-blocks, one after another
    const std::uint8_t* row_scale;    // float16, or null
    int value_bits;                   // 7 or 8: decoded bytes are below 2^value_bits
    bool centroids;                   // every group is one piece, its zero is kCentroidZero and its scale 1; value_bits is 7
    std::size_t group_bytes;          // of the codes of 16 rows x one activation group
    std::size_t block_bytes;          // of the codes of 16 rows
};

void product_decoded(const Decoder& decoder, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                     std::size_t row_end);

// A codec multiplies one int8 vector itself, where that loop is fast in the body (kOneVectorLoop), and leaves all else to product_decoded.
RWKVQUANT_INLINE bool is_one_int8_vector(const Activations& activations) { return activations.count == 1 && activations.q != nullptr; }

// The number of rows of a row-block that are inside the range.
RWKVQUANT_INLINE std::size_t rows_left(std::size_t row, std::size_t row_end) {
    return row_end - row < kTileRows ? row_end - row : kTileRows;
}

}  // namespace rwkvquant::RWKVQUANT_BODY
