// What quantising calls. Every dtype, size and contiguity is checked here, because below are raw pointers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "workshop_operations.h"

namespace nb = nanobind;

namespace rwkvquant {
namespace {

using Points = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Centroids = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
constexpr std::size_t kMostCentroids = 16, kMostPoints = 1 << 14, kUnitsWorthAThread = 4;

// Calls work(begin, end) for parts of 0..total that begin at multiples of `unit`, on as many threads; results must not depend on the parts.
template <class Work>
void share(std::size_t total, std::size_t unit, std::size_t threads, const Work& work) {
    const std::size_t units = (total + unit - 1) / unit, parts = std::max<std::size_t>(1, std::min(threads, units / kUnitsWorthAThread));
    const auto cut = [&](std::size_t part) { return std::min(total, units * part / parts * unit); };
    std::vector<std::thread> others;
    for (std::size_t part = 1; part < parts; ++part) others.emplace_back([&, part] { work(cut(part), cut(part + 1)); });
    work(cut(0), cut(1));
    for (std::thread& other : others) other.join();
}

#if defined(RWKVQUANT_X86)
#define RWKVQUANT_CHOSEN(name)                                                                      \
    [isa = operations().isa](const auto& task, std::size_t begin, std::size_t end) {                \
        if (isa == "avx512") return avx512::name(task, begin, end);                                 \
        if (isa == "avx2") return avx2::name(task, begin, end);                                     \
        plain::name(task, begin, end);                                                              \
    }
#else
#define RWKVQUANT_CHOSEN(name) [](const auto& task, std::size_t begin, std::size_t end) { plain::name(task, begin, end); }
#endif

template <class Task, class Run>
void in_parts(std::size_t total, std::size_t unit, std::size_t threads, const Task& task, const Run& run) {
    const nb::gil_scoped_release released;
    share(total, unit, threads, [&](std::size_t begin, std::size_t end) { run(task, begin, end); });
}

void exact_kmeans(const Points& x, const Points& p, bool limited, double low, double high, Centroids out, std::size_t threads) {
    const std::size_t groups = x.shape(0), n = x.shape(1), k = out.shape(1);
    if (p.shape(0) != groups || p.shape(1) != n || out.shape(0) != groups) throw nb::value_error("[exact_kmeans] x, p and out differ in shape");
    if (k < 1 || k > kMostCentroids || n < 1 || n > kMostPoints) throw nb::value_error("[exact_kmeans] 1 to 16 centroids for 1 to 16384 points");
    [[maybe_unused]] const std::string_view isa = operations().isa;  // ARM has one body
    const nb::gil_scoped_release released;
    share(groups, 8, threads, [&](std::size_t begin, std::size_t end) {
        const KMeans task{x.data() + begin * n, p.data() + begin * n, end - begin, n, static_cast<int>(k), limited, low, high, out.data() + begin * k};
#if defined(RWKVQUANT_X86)
        if (isa == "avx512") return avx512::exact_kmeans(task);
        if (isa == "avx2") return avx2::exact_kmeans(task);
#endif
        plain::exact_kmeans(task);
    });
}

template <class T, int axes>
using Array = nb::ndarray<T, nb::ndim<axes>, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char* message) {
    if (!fits) throw nb::value_error(message);
}

template <class T>
void round_columns(bool descent, int bits, Array<T, 2> block, const Array<const T, 2>& matrix, const Array<const std::int32_t, 1>& table,
                   const std::optional<Array<const float, 2>>& scale, const std::optional<Array<const float, 2>>& zero,
                   const std::optional<Array<const T, 3>>& centroids, const std::optional<Array<const std::uint8_t, 3>>& names,
                   const std::optional<Array<const T, 1>>& row_scale, Array<std::uint8_t, 2> codes, Array<T, 2> changes, std::size_t threads) {
    const std::size_t columns = block.shape(0), rows = block.shape(1), K = std::size_t(1) << bits;
    require(bits >= 1 && bits <= 8 && columns > 0, "[round_columns] bits 1 to 8, and at least one column");
    require(matrix.shape(0) == columns && matrix.shape(1) == columns && table.shape(0) == columns, "[round_columns] matrix or table differ from block");
    require(codes.shape(0) == columns && codes.shape(1) == rows && changes.shape(0) == columns && changes.shape(1) == rows,
            "[round_columns] codes or changes differ from block");
    require(centroids.has_value() != scale.has_value(), "[round_columns] grids or codebooks");
    std::size_t tables = 0;
    if (scale) {
        tables = scale->shape(0);
        require(scale->shape(1) == rows && zero && zero->shape(0) == tables && zero->shape(1) == rows, "[round_columns] scale and zero differ from block");
    } else {
        tables = centroids->shape(0);
        require(bits <= 4 && centroids->shape(1) == K && centroids->shape(2) == rows && row_scale && row_scale->shape(0) == rows,
                "[round_columns] centroids or row_scale differ from block");
        require(descent || (names && names->shape(0) == tables && names->shape(1) == K && names->shape(2) == rows), "[round_columns] names differ");
    }
    for (std::size_t i = 0; i < columns; ++i) {
        require(table(i) >= 0 && static_cast<std::size_t>(table(i)) < tables, "[round_columns] a column's table does not exist");
    }
    const Columns<T> task{descent, columns, rows, tables, bits, block.data(), matrix.data(), table.data(), scale ? scale->data() : nullptr,
                          zero ? zero->data() : nullptr, centroids ? centroids->data() : nullptr, names ? names->data() : nullptr,
                          row_scale ? row_scale->data() : nullptr, codes.data(), changes.data()};
    in_parts(rows, 64, threads, task, RWKVQUANT_CHOSEN(round_columns));
}

template <class T>
void code_gram(const Array<const std::uint8_t, 2>& codes, const Array<const T, 2>& H, const Array<const T, 1>& scale, std::size_t group_rows,
               Array<T, 3> N, std::size_t threads) {
    const std::size_t columns = codes.shape(0), rows = codes.shape(1), K = N.shape(1);
    require(H.shape(0) == columns && H.shape(1) == columns && scale.shape(0) == rows, "[code_gram] H or scale differ from codes");
    require(K >= 1 && K <= kMostCentroids && N.shape(2) == K, "[code_gram] 1 to 16 codes");
    require(group_rows > 0 && N.shape(0) == (rows + group_rows - 1) / group_rows, "[code_gram] one table for each row block");
    const std::uint8_t* end = codes.data() + columns * rows;
    require(std::find_if(codes.data(), end, [K](std::uint8_t code) { return code >= K; }) == end, "[code_gram] a code has no centroid");
    const Gram<T> task{codes.data(), H.data(), scale.data(), columns, rows, group_rows, K, N.data()};
    in_parts(N.shape(0), 16, threads, task, RWKVQUANT_CHOSEN(code_gram));
}

template <class T>
void step_coefficients(const Array<const T, 3>& N, const Array<const T, 2>& g, const Array<const T, 2>& u, const Array<const T, 2>& solved,
                       const Array<const T, 2>& basis, int shift, int passes, T low, T high, T largest, Array<T, 2> found, std::size_t threads) {
    const std::size_t tables = N.shape(0), K = N.shape(1), R = basis.shape(0);
    require(K <= kMostCentroids && N.shape(2) == K && g.shape(0) == tables && g.shape(1) == K && basis.shape(1) == K && R <= K, "[step_coefficients] K");
    require(u.shape(0) == tables && solved.shape(0) == tables && found.shape(0) == tables && u.shape(1) == R && solved.shape(1) == R &&
                found.shape(1) == R && shift >= 0 && shift <= 14,
            "[step_coefficients] u, solved and found have R coefficients a table");
    const Coefficients<T> task{N.data(), g.data(), u.data(), solved.data(), basis.data(), K, R, shift, passes, low, high, largest, found.data()};
    in_parts(tables, 64, threads, task, RWKVQUANT_CHOSEN(step_coefficients));
}

template <class T>
void bind_of(nb::module_& module) {
    using namespace nanobind::literals;
    module.def("round_columns", &round_columns<T>, "descent"_a, "bits"_a, "block"_a.noconvert(), "matrix"_a.noconvert(), "table"_a.noconvert(),
               "scale"_a.none(), "zero"_a.none(), "centroids"_a.none(), "names"_a.none(), "row_scale"_a.none(), "codes"_a.noconvert(),
               "changes"_a.noconvert(), "threads"_a, "A block of columns, by error feedback or descent. See native/workshop_operations.h.");
    module.def("code_gram", &code_gram<T>, "codes"_a, "H"_a.noconvert(), "scale"_a.noconvert(), "group_rows"_a, "N"_a.noconvert(), "threads"_a,
               "Sums of H by pairs of codes; writes N (row blocks, K, K). See quantizers/codebook/update.py.");
    module.def("step_coefficients", &step_coefficients<T>, "N"_a.noconvert(), "g"_a.noconvert(), "u"_a.noconvert(), "solved"_a.noconvert(),
               "basis"_a.noconvert(), "shift"_a, "passes"_a, "low"_a, "high"_a, "largest"_a, "found"_a.noconvert(), "threads"_a,
               "Better coefficients of compressed tables; writes found (tables, R). See quantizers/codebook/factors.py.");
}

}  // namespace

void bind_workshop(nb::module_& module) {
    using namespace nanobind::literals;
    module.def("exact_kmeans", &exact_kmeans, "x"_a, "p"_a, "limited"_a, "low"_a, "high"_a, "out"_a.noconvert(), "threads"_a,
               "Sorted points and weights (groups, n) float64; writes centroids (groups, k) float64. See quantizers/shared/clustering.py.");
    bind_of<float>(module);
    bind_of<double>(module);
}

}  // namespace rwkvquant
