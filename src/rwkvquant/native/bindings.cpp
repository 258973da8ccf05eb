// The only file that sees Python. Every dtype, size and contiguity is checked here, because below are raw pointers.
//
// Arrays are flat and may be longer than needed: the file pads them to 64 bytes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <vector>

#include "activations.h"
#include "dispatch.h"
#include "tiles.h"

namespace nb = nanobind;

namespace rwkvquant {
namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr nb::dlpack::dtype kUint8{static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 8, 1};
constexpr nb::dlpack::dtype kInt8{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 8, 1};
constexpr nb::dlpack::dtype kFloat16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
constexpr nb::dlpack::dtype kFloat32{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 32, 1};

std::string dtype_name(nb::dlpack::dtype type) {
    const bool is_float = type == kFloat16 || type == kFloat32 || (type.bits == 64 && type.code == kFloat32.code);
    const char* kind = is_float ? "float" : type.code == kUint8.code ? "uint" : type.code == kInt8.code ? "int" : "dtype";
    return kind + std::to_string(type.bits);
}

// The raw bytes of an argument, or a ValueError that names it and says the rule and what came.
const std::uint8_t* checked(const char* op, const char* name, const Array& array, nb::dlpack::dtype type, std::size_t count) {
    const std::string where = "[" + std::string(op) + "] " + name;
    if (array.dtype() != type) {
        throw nb::value_error((where + " must be " + dtype_name(type) + "; got " + dtype_name(array.dtype())).c_str());
    }
    if (array.ndim() != 1 || (array.shape(0) > 1 && array.stride(0) != 1)) {
        const std::string came = std::to_string(array.ndim()) + " dimensions or a stride";
        throw nb::value_error((where + " must be flat and contiguous; got " + came).c_str());
    }
    if (array.shape(0) < count) {
        throw nb::value_error((where + " must hold " + std::to_string(count) + " values; got " + std::to_string(array.shape(0))).c_str());
    }
    return static_cast<const std::uint8_t*>(array.data());
}

void check_rule(const char* op, bool holds, const std::string& rule) {
    if (!holds) throw nb::value_error(("[" + std::string(op) + "] " + rule).c_str());
}

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

constexpr std::size_t kMaxSize = std::size_t{1} << 31;  // below it, no sum or product of sizes overflows

void check_shape(const char* op, std::size_t rows, std::size_t cols, const Output& out) {
    const std::string shape = std::to_string(rows) + " x " + std::to_string(cols);
    check_rule(op, rows < kMaxSize && cols < kMaxSize, "rows and cols must be below 2**31; got " + shape);
    const std::string came = std::to_string(rows) + "; got " + std::to_string(out.shape(0));
    check_rule(op, out.shape(0) == rows, "out must hold one value a row, " + came);
}

void gemv_uniform(const Array& codes, const Array& scales, const std::optional<Array>& row_scale, const std::optional<Array>& zeros,
                  const Array& xq, const Array& xscale, std::size_t rows, std::size_t cols, std::size_t group_size, Output out) {
    const char* op = "gemv_uniform";
    check_shape(op, rows, cols, out);
    check_rule(op, group_size > 0 && group_size < kMaxSize && group_size % kActivationGroup == 0,
               "group_size must be a multiple of 64 below 2**31 for tiles of 64 columns; got " + std::to_string(group_size));
    const std::size_t blocks = ceil_divide(rows, kTileRows), groups = ceil_divide(cols, group_size);
    const std::size_t tiles = ceil_divide(cols, kActivationGroup);
    const auto* codes_data = checked(op, "codes", codes, kUint8, blocks * tiles * sizeof(Uniform3Tile));
    const auto* scales_data = checked(op, "scales", scales, row_scale ? kUint8 : kFloat16, blocks * groups * kTileRows);
    const auto* row_scale_data = row_scale ? checked(op, "row_scale", *row_scale, kFloat16, blocks * kTileRows) : nullptr;
    const auto* zeros_data = zeros ? checked(op, "zeros", *zeros, kUint8, blocks * groups * sizeof(Uniform3Zeros)) : nullptr;
    const auto* xq_data = reinterpret_cast<const std::int8_t*>(checked(op, "xq", xq, kInt8, tiles * kActivationGroup));
    const auto* xscale_data = checked(op, "xscale", xscale, kFloat32, tiles);
    float* out_data = out.data();

    const nb::gil_scoped_release released;
    std::vector<std::int32_t> xsum(tiles);
    group_sums(xq_data, tiles, xsum.data());
    operations().gemv_uniform(codes_data, scales_data, row_scale_data, zeros_data, xq_data, xscale_data, xsum.data(), rows, cols,
                              group_size, out_data);
}

void gemv_codebook(const Array& codes, const Array& codebooks, const Array& row_scale, const Array& xq, const Array& xscale,
                   std::size_t rows, std::size_t cols, Output out) {
    const char* op = "gemv_codebook";
    check_shape(op, rows, cols, out);
    const std::size_t blocks = ceil_divide(rows, kTileRows), tiles = ceil_divide(cols, 32), groups = ceil_divide(cols, kActivationGroup);
    const auto* codes_data = checked(op, "codes", codes, kUint8, blocks * tiles * sizeof(Codebook3Tile));
    const auto* codebooks_data = checked(op, "codebooks", codebooks, kUint8, blocks * tiles * sizeof(Codebook3Tables));
    const auto* row_scale_data = checked(op, "row_scale", row_scale, kFloat16, blocks * kTileRows);
    const auto* xq_data = reinterpret_cast<const std::int8_t*>(checked(op, "xq", xq, kInt8, groups * kActivationGroup));
    const auto* xscale_data = checked(op, "xscale", xscale, kFloat32, groups);
    float* out_data = out.data();

    const nb::gil_scoped_release released;
    std::vector<std::int32_t> xsum(groups);
    group_sums(xq_data, groups, xsum.data());
    operations().gemv_codebook(codes_data, codebooks_data, row_scale_data, xq_data, xscale_data, xsum.data(), rows, cols, out_data);
}

std::uint64_t read_memory(const Array& memory, std::size_t ahead) {
    const auto* data = checked("read_memory", "memory", memory, kUint8, 0);
    const std::size_t bytes = memory.shape(0);
    check_rule("read_memory", bytes % 256 == 0, "memory must be a multiple of 256 bytes; got " + std::to_string(bytes));

    const nb::gil_scoped_release released;
    return operations().read_memory(data, bytes, ahead);
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Operations& body : available()) names.emplace_back(body.isa);
    return names;
}

void set_isa(std::string_view name) {
    if (set_operations(name)) return;
    std::string message = "this CPU and build cannot run \"" + std::string(name) + "\"; available:";
    for (const std::string& isa : available_isas()) message += " " + isa;
    throw nb::value_error(message.c_str());
}

}  // namespace
}  // namespace rwkvquant

NB_MODULE(_native, module) {
    using namespace nb::literals;
    module.doc() = "Native bodies of the operations in rwkvquant.kernels; call them through rwkvquant.kernels.dispatch.";
    module.def("gemv_uniform", &rwkvquant::gemv_uniform, "codes"_a, "scales"_a, "row_scale"_a.none(), "zeros"_a.none(), "xq"_a, "xscale"_a,
               "rows"_a, "cols"_a, "group_size"_a, "out"_a.noconvert(), "uniform3.t16x64; writes out (rows,) float32.");
    module.def("gemv_codebook", &rwkvquant::gemv_codebook, "codes"_a, "codebooks"_a, "row_scale"_a, "xq"_a, "xscale"_a, "rows"_a, "cols"_a,
               "out"_a.noconvert(), "codebook3.t16x32; writes out (rows,) float32.");
    module.def("read_memory", &rwkvquant::read_memory, "memory"_a, "ahead"_a,
               "The xor of all 64-bit words of memory (uint8), read once as fast as one core can, prefetching `ahead` bytes.");
    module.def("available_isas", &rwkvquant::available_isas, "What this CPU can run, slowest first.");
    module.def("isa", [] { return std::string(rwkvquant::operations().isa); }, "What runs now.");
    module.def("set_isa", &rwkvquant::set_isa, "name"_a, "Choose what runs, in the whole process. Raises ValueError.");
}
