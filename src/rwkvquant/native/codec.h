// A codec in the native module: one file that says which numbers and arrays a matrix has, and multiplies or decodes it.
//
// A new codec needs such a file, a line in codecs.cpp and a line in CMakeLists.txt. Codecs are part of every body: their files are compiled
// once for each instruction set, and must follow the rules for such files in operations.h.
#pragma once

#include <initializer_list>

#include "matrix.h"

namespace rwkvquant {

enum class Type { kUint8, kInt8, kUint16, kFloat16, kFloat32 };

constexpr std::size_t kMaxSize = std::size_t{1} << 31;     // of a number: below it, none overflows when rounded up to whole groups
constexpr std::size_t kMaxWeights = std::size_t{1} << 40;  // of a matrix: below it, no product of sizes overflows

// The numbers and arrays of a matrix by name, as Python gives them. What does not fit throws; the message has the rule and what came.
class Description {
  public:
    // A number from `least` to `most`, or one of some choices.
    virtual std::size_t number(const char* name, std::size_t least, std::size_t most) = 0;
    virtual std::size_t one_of(const char* name, std::initializer_list<std::size_t> choices) = 0;
    // The bytes of an array of at least `count` values.
    virtual const std::uint8_t* array(const char* name, Type type, std::size_t count) = 0;
    // Memory that lives as long as the matrix, for what the codec makes of its arrays once.
    virtual std::uint8_t* room(std::size_t bytes) = 0;
    virtual void require(bool holds, const char* rule) = 0;

  protected:
    ~Description() = default;
};

// For codecs whose rounded products are whole numbers, summed over the columns that are not zero in any order. The engine gives parts of
// such sums to several threads. Rows are in chunks of `chunk_rows`; `sums` int32 values belong to a chunk and one vector.
struct ColumnSums {
    std::size_t chunk_rows, sums;
    // Of each vector: what `prepare` writes for vectors begin .. end, before a product. Activations::prepared then points to it.
    std::size_t (*prepared_bytes)(const Matrix& matrix);
    // `room` has `room_bytes`, is aligned to 4, and is free again afterwards.
    std::size_t (*room_bytes)(const Matrix& matrix);
    void (*prepare)(const Matrix& matrix, const Activations& activations, std::size_t begin, std::size_t end, void* prepared, void* room);
    // How many columns of a vector are not zero. Not for float32 activations, as the next two.
    std::size_t (*active)(const Matrix& matrix, const Activations& activations, std::size_t vector);
    // Adds the columns begin .. end of those to the sums of a chunk. `next`: the chunk that the thread adds after it, from column 0 on, whose
    // memory is asked for already; or the same chunk.
    void (*add)(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, std::size_t begin,
                std::size_t end, std::size_t next, std::int32_t* sums);
    // Writes the rows of a chunk, from sums over all columns.
    void (*finish)(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, const std::int32_t* sums,
                   float* out);
};

struct Codec {
    const char* name;
    // Fills matrix.fields. matrix.rows and cols are set before, 1 to 2^31 - 1 each, and their product is below kMaxWeights.
    void (*describe)(Description& given, Matrix& matrix);
    // Writes out[b * out_stride + r] for rows row_begin .. row_end, multiples of 16; row_end may be `rows`. The bits depend neither on how
    // the rows are split nor on how many vectors there are. Null: the codec is read row by row and has no product.
    void (*product)(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                    std::size_t row_end);
    // Writes x[c] of one row for columns begin .. end. Null: single rows cannot be read.
    void (*decode_row)(const Matrix& matrix, std::size_t row, std::size_t begin, std::size_t end, float* x);
    bool reads_x;  // the product always reads x; q only says that activations may be rounded
    const ColumnSums* by_columns = nullptr;
};

}  // namespace rwkvquant
