// Weights that are not quantised, float16, bfloat16 or float32, stored row by row, with float32 activations.
//
//     s[l]    = sum over columns 64k + l of W[r, c] * x[c]      64 sums, each from left to right, from 0
//     y[r]    = the sum of s by halves: s[l] + s[l + 32], then + 16, + 8, + 4, + 2, + 1
//
// One row at a time, because memory is fastest as one stream, but several vectors together: each weight is read and widened once for them.
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kLanes = 16, kChains = 4;

struct Dense {
    std::size_t cols;
    Type type;  // float16, bfloat16 as uint16, or float32
    const std::uint8_t* values;
};

void describe_as(Type type, Description& given, Matrix& matrix) {
    const Dense own = {matrix.cols, type, given.array("values", type, matrix.rows * matrix.cols)};
    keep(own, matrix);
}
void describe_dense(Description& given, Matrix& matrix) {
    describe_as(given.one_of("bits", {16, 32}) == 16 ? Type::kFloat16 : Type::kFloat32, given, matrix);
}
void describe_bfloat(Description& given, Matrix& matrix) { describe_as(Type::kUint16, given, matrix); }

template <Type type>
constexpr std::size_t kSize = type == Type::kFloat32 ? 4 : 2;

template <Type type>
RWKVQUANT_INLINE Floats weights_from(const std::uint8_t* from) {
    if constexpr (type == Type::kFloat16) return floats_from_f16(from);
    else if constexpr (type == Type::kUint16) return floats_from_bf16(from);
    else return floats_from(reinterpret_cast<const float*>(from));
}

float sum_by_halves(const Floats (&sums)[kChains]) {
    float lane[kLanes];
    store(lane, add(add(sums[0], sums[2]), add(sums[1], sums[3])));
    for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
        for (std::size_t l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
}

// Writes out[v * out_stride] of one row and some vectors.
template <Type type, int vectors>
void multiply_row(const std::uint8_t* row, std::size_t cols, const float* x, std::size_t padded, Ahead ahead, float* out,
                  std::size_t out_stride) {
    constexpr std::size_t kBytes = kSize<type>, kColumns = kLanes * kChains;
    Floats sums[vectors][kChains];
    for (auto& of_vector : sums) {
        for (Floats& sum : of_vector) sum = splat(0.0f);
    }
    const auto add_columns = [&](const std::uint8_t* from, const float* at) RWKVQUANT_ALWAYS {
        unroll<kChains>([&](auto k) RWKVQUANT_ALWAYS {
            const Floats weights = weights_from<type>(from + k.v * kLanes * kBytes);
            unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
                sums[v.v][k.v] = add(sums[v.v][k.v], multiply(weights, floats_from(at + v.v * padded + k.v * kLanes)));
            });
        });
    };
    std::size_t c = 0;
    for (; c + kColumns <= cols; c += kColumns) {
        prefetch<kColumns * kBytes>(row + c * kBytes, ahead);
        add_columns(row + c * kBytes, x + c);
    }
    if (c < cols) {  // the last columns, and zeros after them
        std::uint8_t last[kColumns * kBytes] = {};
        std::memcpy(last, row + c * kBytes, (cols - c) * kBytes);
        add_columns(last, x + c);
    }
    for (std::size_t v = 0; v < vectors; ++v) out[v * out_stride] = sum_by_halves(sums[v]);
}

template <Type type>
void multiply_all(const Dense& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                  std::size_t row_end) {
    const std::size_t cols = matrix.cols, padded = ceil_divide(cols, kActivationGroup) * kActivationGroup;
    const float* x = activations.x;
    for (std::size_t row = row_begin; row < row_end; ++row) {
        const std::uint8_t* values = matrix.values + row * cols * kSize<type>;
        std::size_t v = 0;
        for (; v + kDenseVectors <= activations.count; v += kDenseVectors) {
            multiply_row<type, kDenseVectors>(values, cols, x + v * padded, padded, activations.ahead, out + v * out_stride + row, out_stride);
        }
        for (; v < activations.count; ++v) {
            multiply_row<type, 1>(values, cols, x + v * padded, padded, activations.ahead, out + v * out_stride + row, out_stride);
        }
    }
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    const Dense own = kept<Dense>(matrix);
    const auto multiply = own.type == Type::kFloat16  ? multiply_all<Type::kFloat16>
                          : own.type == Type::kUint16 ? multiply_all<Type::kUint16>
                                                      : multiply_all<Type::kFloat32>;
    multiply(own, activations, out, out_stride, row_begin, row_end);
}

void decode_row(const Matrix& matrix, std::size_t row, std::size_t begin, std::size_t end, float* x) {
    const Dense own = kept<Dense>(matrix);
    const std::size_t first = own.cols * row;
    for (std::size_t c = begin; c < end; ++c) {
        if (own.type == Type::kFloat16) {
            x[c] = half_at(own.values, first + c);
        } else if (own.type == Type::kUint16) {  // the upper half of a float32
            const std::uint32_t bits = std::uint32_t{load<std::uint16_t>(own.values + 2 * (first + c))} << 16;
            x[c] = load<float>(&bits);
        } else {
            x[c] = load<float>(own.values + 4 * (first + c));
        }
    }
}

}  // namespace

extern const Codec kDense, kBfloat;
constinit const Codec kDense = {"dense", describe_dense, product, decode_row, true};
constinit const Codec kBfloat = {"bfloat", describe_bfloat, product, decode_row, true};

}  // namespace rwkvquant::RWKVQUANT_BODY
