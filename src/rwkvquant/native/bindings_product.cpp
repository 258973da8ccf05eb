// `product` and `quantize_activations` for Python.
#include <nanobind/stl/optional.h>

#include <memory>
#include <optional>

#include "bindings.h"
#include "bindings_matrix.h"
#include "prefetch.h"
#include "tiles.h"

namespace rwkvquant {
namespace {

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

using Signed = nb::ndarray<std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_count(const char* op, std::size_t count, std::size_t cols) {
    check_rule(op, count > 0 && count < 65536 && cols > 0 && cols < kMaxSize, "count must be 1 to 65535 and cols 1 to 2**31 - 1");
}

void product(const HeldMatrix& held, const std::optional<Array>& q, const std::optional<Array>& scale, const std::optional<Array>& minus_sum,
             const std::optional<Array>& x, std::size_t count, Output out, std::size_t out_stride, std::size_t row_begin, std::size_t row_end) {
    const char* op = "product";
    const Matrix& matrix = held.matrix();
    check_rule(op, held.codec().product != nullptr, std::string(held.codec().name) + " are read row by row and have no product");
    check_count(op, count, matrix.cols);
    const bool in_rows = row_begin <= row_end && row_end <= matrix.rows;
    const bool whole = row_begin % kTileRows == 0 && (row_end % kTileRows == 0 || row_end == matrix.rows);
    check_rule(op, in_rows && whole, "rows must begin and end at multiples of 16, or end at the last row");
    check_rule(op, out_stride >= matrix.rows && out_stride < kMaxSize && out.shape(0) >= (count - 1) * out_stride + matrix.rows,
               "out must hold (count - 1) * out_stride + rows values, and out_stride be at least rows");
    const std::size_t groups = ceil_divide(matrix.cols, kActivationGroup), padded = groups * kActivationGroup;
    Activations activations;
    activations.cols = matrix.cols;
    activations.count = count;
    activations.ahead = usual_ahead(held.codec().name);
    if (q) {
        check_rule(op, scale && minus_sum, "q needs scale and minus_sum");
        activations.q = reinterpret_cast<const std::int8_t*>(checked(op, "q", *q, kInt8, count * padded));
        activations.scale = checked_numbers<float>(op, "scale", *scale, kFloat32, count * groups);
        activations.minus_sum = checked_numbers<std::int32_t>(op, "minus_sum", *minus_sum, kInt32, 2 * count * groups);
    }
    check_rule(op, x || (q && !held.codec().reads_x), "x must be given where q is not, and for dense matrices");
    if (x) activations.x = checked_numbers<float>(op, "x", *x, kFloat32, count * padded);

    const ColumnSums* by_columns = held.codec().by_columns;
    std::unique_ptr<std::uint8_t[]> prepared, room;  // not zeroed, because that would take longer than preparing
    if (by_columns != nullptr) {
        prepared.reset(new std::uint8_t[count * by_columns->prepared_bytes(matrix)]);
        room.reset(new std::uint8_t[by_columns->room_bytes(matrix)]);
    }

    const nb::gil_scoped_release released;
    if (by_columns != nullptr) {
        by_columns->prepare(matrix, activations, 0, count, prepared.get(), room.get());
        activations.prepared = prepared.get();
    }
    held.codec().product(matrix, activations, out.data(), out_stride, row_begin, row_end);
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
    module.def("product", &product, "matrix"_a, "q"_a.none(), "scale"_a.none(), "minus_sum"_a.none(), "x"_a.none(), "count"_a,
               "out"_a.noconvert(), "out_stride"_a, "row_begin"_a, "row_end"_a,
               "out[b * out_stride + r] for rows row_begin..row_end; q None multiplies float32 x.");
    module.def("quantize_activations", &quantize_activations, "x"_a, "count"_a, "cols"_a, "q"_a.noconvert(), "scale"_a.noconvert(),
               "minus_sum"_a.noconvert(), "x (count, padded) float32 -> q int8, scale float32, minus_sum int32; writes all three.");
}

}  // namespace rwkvquant
