// A table that is read row by row, uniform{1..8}.rows; the definition is kernels/tiles.py, "the rows layout".
//
//     x[c] = scale * (code - zero)        scale, zero of the group of c
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kPlanes[9][3] = {{}, {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {4, 4}};
constexpr std::size_t kRowMultiple = 64;

struct Rows {
    std::size_t padded, group_size, groups;  // columns of a row, rounded up to 64; columns of a group; groups of a row
    int bits, scale_bits;
    const std::uint8_t *codes, *scales, *row_scale, *zeros;  // row_scale null with scales of 16 bits, zeros null where symmetric
};

void describe(Description& given, Matrix& matrix) {
    Rows own = {};
    const std::size_t bits = given.number("bits", 1, 8), scale_bits = given.one_of("scale_bits", {8, 16});
    const bool symmetric = given.one_of("symmetric", {0, 1}) == 1;
    own.group_size = given.number("group_size", 1, kMaxSize - 1);
    own.bits = static_cast<int>(bits), own.scale_bits = static_cast<int>(scale_bits);
    own.padded = ceil_divide(matrix.cols, kRowMultiple) * kRowMultiple;
    own.groups = ceil_divide(matrix.cols, own.group_size);
    own.codes = given.array("codes", Type::kUint8, matrix.rows * (own.padded * bits / 8));
    own.scales = given.array("scales", scale_bits == 8 ? Type::kUint8 : Type::kFloat16, matrix.rows * own.groups);
    if (scale_bits == 8) own.row_scale = given.array("row_scale", Type::kFloat16, matrix.rows);
    if (!symmetric) own.zeros = given.array("zeros", Type::kUint8, matrix.rows * own.groups);
    keep(own, matrix);
}

void decode_row(const Matrix& matrix, std::size_t row, std::size_t begin, std::size_t end, float* x) {
    const Rows W = kept<Rows>(matrix);
    const std::uint8_t* codes = W.codes + row * (W.padded * static_cast<std::size_t>(W.bits) / 8);
    const std::uint8_t* scales = W.scales + row * W.groups * (W.scale_bits == 8 ? 1 : 2);
    const float row_scale = W.row_scale != nullptr ? half_at(W.row_scale, row) : 1.0f;
    for (std::size_t c = begin; c < end;) {
        const std::size_t group = c / W.group_size;
        const std::size_t stop = (group + 1) * W.group_size < end ? (group + 1) * W.group_size : end;
        const float scale = W.scale_bits == 8 ? row_scale * static_cast<float>(scales[group]) : half_at(scales, group);
        const int zero = W.zeros != nullptr ? W.zeros[row * W.groups + group] : 1 << (W.bits - 1);
        for (; c < stop; ++c) {
            const std::uint8_t* plane = codes;
            int code = 0, low_bit = 0;
            for (const int width : kPlanes[W.bits]) {
                if (width == 0) break;
                const std::size_t per = 8 / static_cast<std::size_t>(width);
                code |= (plane[c / per] >> (width * static_cast<int>(c % per)) & ((1 << width) - 1)) << low_bit;
                plane += W.padded / per;
                low_bit += width;
            }
            x[c] = scale * static_cast<float>(code - zero);
        }
    }
}

}  // namespace

extern const Codec kRows;
constinit const Codec kRows = {"rows", describe, nullptr, decode_row, false};

}  // namespace rwkvquant::RWKVQUANT_BODY
