// `product` and `quantize_activations` for Python: a packed matrix is described once, and its arrays are checked once.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <map>
#include <optional>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "dispatch.h"
#include "tiles.h"

namespace rwkvquant {
namespace {

constexpr const char* kMatrix = "Matrix";

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// A Matrix and the arrays it points into.
class HeldMatrix {
  public:
    HeldMatrix(const std::string& codec, const std::map<std::string, Array>& arrays, std::size_t rows, std::size_t cols, int bits,
               int tile_cols, std::size_t group_size, bool symmetric, int scale_bits, std::size_t group_rows, int rank, int shift)
        : arrays_(arrays) {
        const bool sizes = rows > 0 && cols > 0 && rows < kMaxSize && cols < kMaxSize;
        check_rule(kMatrix, sizes, "rows and cols must be 1 to 2**31 - 1; got " + std::to_string(rows) + " x " + std::to_string(cols));
        matrix_.rows = rows;
        matrix_.cols = cols;
        matrix_.bits = bits;
        matrix_.tile_cols = tile_cols;
        blocks_ = ceil_divide(rows, kTileRows);
        if (codec == "uniform") {
            take_uniform(group_size, symmetric, scale_bits);
        } else if (codec == "codebook") {
            take_codebook(group_rows, rank, shift);
        } else if (codec == "pairs") {
            take_pairs(group_rows);
        } else if (codec == "bfloat") {
            check_rule(kMatrix, bits == 16, "bfloat has 16 bits");
            matrix_.codec = Codec::kBfloat;
            matrix_.codes = taken("values", kUint16, rows * cols);
        } else {
            check_rule(kMatrix, codec == "dense" && (bits == 16 || bits == 32),
                       "codec must be uniform, codebook, pairs, bfloat, or dense of 16 or 32 bits");
            matrix_.codec = bits == 16 ? Codec::kHalf : Codec::kFloat;
            matrix_.codes = taken("values", bits == 16 ? kFloat16 : kFloat32, rows * cols);
        }
    }

    const Matrix& matrix() const { return matrix_; }

  private:
    void take_uniform(std::size_t group_size, bool symmetric, int scale_bits) {
        const std::size_t tile_cols = static_cast<std::size_t>(matrix_.tile_cols), bits = static_cast<std::size_t>(matrix_.bits);
        check_rule(kMatrix, matrix_.bits >= 1 && matrix_.bits <= 8, "bits of a uniform matrix must be 1 to 8");
        check_rule(kMatrix, tile_cols == 64 || tile_cols == 32, "tile_cols must be 64 or 32");
        check_rule(kMatrix, group_size > 0 && group_size < kMaxSize && group_size % tile_cols == 0,
                   "group_size must be a multiple of tile_cols below 2**31; got " + std::to_string(group_size));
        check_rule(kMatrix, scale_bits == 8 || scale_bits == 16, "scale_bits must be 8 or 16");
        matrix_.codec = Codec::kUniform;
        matrix_.group_size = group_size;
        matrix_.symmetric = symmetric;
        matrix_.scale_bits = scale_bits;
        const std::size_t groups = blocks_ * ceil_divide(matrix_.cols, group_size);
        matrix_.codes = taken("codes", kUint8, tiled_bytes(matrix_.cols, tile_cols));
        matrix_.scales = taken("scales", scale_bits == 8 ? kUint8 : kFloat16, groups * kTileRows);
        if (scale_bits == 8) matrix_.row_scale = taken("row_scale", kFloat16, blocks_ * kTileRows);
        if (!symmetric) matrix_.zeros = taken("zeros", kUint8, groups * 2 * bits);
    }

    void take_codebook(std::size_t group_rows, int rank, int shift) {
        const bool rows_fit = group_rows == 2 || group_rows == 4 || group_rows == 8 || group_rows == 16;
        const bool fits = matrix_.bits >= 2 && matrix_.bits <= 4 && rows_fit && (std::size_t{1} << matrix_.bits) <= 4 * group_rows;
        check_rule(kMatrix, fits, "a codebook of 2 to 4 bits serves 2, 4, 8 or 16 rows, and 2**bits is at most 4 * group_rows");
        check_rule(kMatrix, rank >= 0 && rank <= 8 && shift >= 0 && shift <= 14, "rank must be 0 to 8 and shift 0 to 14");
        matrix_.codec = Codec::kCodebook;
        matrix_.group_rows = group_rows;
        matrix_.rank = rank;
        matrix_.shift = shift;
        const std::size_t tables = blocks_ * kTileRows / group_rows * ceil_divide(matrix_.cols, 32), entries = std::size_t{1} << matrix_.bits;
        matrix_.codes = taken("codes", kUint8, tiled_bytes(matrix_.cols, 32));
        matrix_.row_scale = taken("row_scale", kFloat16, blocks_ * kTileRows);
        if (rank == 0) {
            matrix_.codebooks = taken("codebooks", kUint8, tables * entries);
        } else {
            matrix_.coefficients = taken("coefficients", kInt8, tables * static_cast<std::size_t>(rank));
            matrix_.basis = taken("basis", kInt8, static_cast<std::size_t>(rank) * entries);
        }
    }

    void take_pairs(std::size_t group_rows) {
        check_rule(kMatrix, matrix_.bits >= 4 && matrix_.bits <= 8, "bits of a pair codebook must be 4 to 8");
        check_rule(kMatrix, group_rows > 0 && group_rows < kMaxSize && group_rows % kTileRows == 0, "group_rows of pairs must be a multiple of 16");
        matrix_.codec = Codec::kPairs;
        matrix_.group_rows = group_rows;
        matrix_.codes = taken("codes", kUint8, tiled_bytes(ceil_divide(matrix_.cols, 2), 32));
        matrix_.codebooks = taken("codebooks", kUint8, ceil_divide(matrix_.rows, group_rows) * (std::size_t{2} << matrix_.bits));
        matrix_.row_scale = taken("row_scale", kFloat16, blocks_ * kTileRows);
    }

    std::size_t tiled_bytes(std::size_t codes, std::size_t tile_cols) const {
        return blocks_ * kTileRows * ceil_divide(codes, tile_cols) * tile_cols * static_cast<std::size_t>(matrix_.bits) / 8;
    }

    const std::uint8_t* taken(const char* name, nb::dlpack::dtype type, std::size_t count) const {
        const auto found = arrays_.find(name);
        check_rule(kMatrix, found != arrays_.end(), std::string(name) + " is missing");
        return checked(kMatrix, name, found->second, type, count);
    }

    std::map<std::string, Array> arrays_;
    Matrix matrix_;
    std::size_t blocks_ = 0;
};

using Signed = nb::ndarray<std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_count(const char* op, std::size_t count, std::size_t cols) {
    check_rule(op, count > 0 && count < 65536 && cols > 0 && cols < kMaxSize, "count must be 1 to 65535 and cols 1 to 2**31 - 1");
}

void product(const HeldMatrix& held, const std::optional<Array>& q, const std::optional<Array>& scale, const std::optional<Array>& minus_sum,
             const std::optional<Array>& x, std::size_t count, Output out, std::size_t out_stride, std::size_t row_begin, std::size_t row_end) {
    const char* op = "product";
    const Matrix& matrix = held.matrix();
    check_count(op, count, matrix.cols);
    const bool in_rows = row_begin <= row_end && row_end <= matrix.rows;
    const bool whole = row_begin % kTileRows == 0 && (row_end % kTileRows == 0 || row_end == matrix.rows);
    check_rule(op, in_rows && whole, "rows begin and end at multiples of 16, or end at the last one");
    check_rule(op, out_stride >= matrix.rows && out_stride < kMaxSize && out.shape(0) >= (count - 1) * out_stride + matrix.rows,
               "out must hold (count - 1) * out_stride + rows values, and out_stride be at least rows");
    const std::size_t groups = ceil_divide(matrix.cols, kActivationGroup), padded = groups * kActivationGroup;
    Activations activations;
    activations.cols = matrix.cols;
    activations.count = count;
    if (q) {
        check_rule(op, scale && minus_sum, "q comes with scale and minus_sum");
        activations.q = reinterpret_cast<const std::int8_t*>(checked(op, "q", *q, kInt8, count * padded));
        activations.scale = checked_numbers<float>(op, "scale", *scale, kFloat32, count * groups);
        activations.minus_sum = checked_numbers<std::int32_t>(op, "minus_sum", *minus_sum, kInt32, 2 * count * groups);
    }
    const bool dense = matrix.codec == Codec::kHalf || matrix.codec == Codec::kBfloat || matrix.codec == Codec::kFloat;
    check_rule(op, x || (q && !dense), "x is needed where q is not given, and by dense matrices");
    if (x) activations.x = checked_numbers<float>(op, "x", *x, kFloat32, count * padded);

    const nb::gil_scoped_release released;
    operations().product(matrix, activations, out.data(), out_stride, row_begin, row_end);
}

void quantize_activations(const Array& x, std::size_t count, std::size_t cols, Signed q, Output scale, Sums minus_sum) {
    const char* op = "quantize_activations";
    check_count(op, count, cols);
    const std::size_t groups = ceil_divide(cols, kActivationGroup), padded = groups * kActivationGroup;
    const auto* x_data = checked_numbers<float>(op, "x", x, kFloat32, count * padded);
    const bool fits = q.shape(0) >= count * padded && scale.shape(0) >= count * groups && minus_sum.shape(0) >= 2 * count * groups;
    check_rule(op, fits, "q must hold count vectors padded to 64, scale a value for each 64, minus_sum two");

    const nb::gil_scoped_release released;
    operations().quantize_activations(x_data, count, cols, q.data(), scale.data(), minus_sum.data());
}

}  // namespace

void bind_product(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<HeldMatrix>(module, "Matrix", "A packed matrix and its arrays, which it keeps alive; see native/matrix.h.")
        .def(nb::init<const std::string&, const std::map<std::string, Array>&, std::size_t, std::size_t, int, int, std::size_t, bool, int,
                      std::size_t, int, int>(),
             "codec"_a, "arrays"_a, "rows"_a, "cols"_a, "bits"_a, "tile_cols"_a = 32, "group_size"_a = 0, "symmetric"_a = false,
             "scale_bits"_a = 0, "group_rows"_a = 0, "rank"_a = 0, "shift"_a = 0);
    module.def("product", &product, "matrix"_a, "q"_a.none(), "scale"_a.none(), "minus_sum"_a.none(), "x"_a.none(), "count"_a,
               "out"_a.noconvert(), "out_stride"_a, "row_begin"_a, "row_end"_a,
               "out[b * out_stride + r] for rows row_begin..row_end; q None multiplies float32 x.");
    module.def("quantize_activations", &quantize_activations, "x"_a, "count"_a, "cols"_a, "q"_a.noconvert(), "scale"_a.noconvert(),
               "minus_sum"_a.noconvert(), "x (count, padded) float32 -> q int8, scale float32, minus_sum int32; writes all three.");
}

}  // namespace rwkvquant
