// The loops of quantising, for Python. Every dtype, size and contiguity is checked here, because the loops have raw pointers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <optional>

#include "bindings.h"
#include "bodies.h"
#include "buffer.h"
#include "thread_pool.h"

namespace nb = nanobind;

namespace rwkvquant {
namespace {

using Points = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Centroids = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
constexpr std::size_t kMostCentroids = 16, kMostPoints = 1 << 14, kMostEntries = 64, kUnitsWorthAThread = 4,
                      kMostThreads = 1024;

// The threads of all quantising in this process: as many as the largest number asked for. They are never joined, because a Python thread
// may still use them when the process ends.
struct Shared {
    std::mutex busy;
    std::unique_ptr<ThreadPool> pool;
};
Shared& shared() {
    static Shared& only = *new Shared;
    return only;
}

// Calls run(task, begin, end, scratch) for parts of 0..total, one on each thread. Parts begin at multiples of the task's unit; results do
// not depend on them. While another Python thread uses the pool, the caller works alone.
template <class Task>
void share(std::size_t total, std::size_t threads, const Task& task, void (*run)(const Task&, std::size_t, std::size_t, void*)) {
    const std::size_t units = (total + Task::kUnit - 1) / Task::kUnit, scratch_bytes = (task.scratch_bytes() + 63) / 64 * 64;
    const std::unique_lock<std::mutex> lock(shared().busy, std::try_to_lock);
    const std::size_t most = std::clamp<std::size_t>(units / kUnitsWorthAThread, 1, kMostThreads);
    const std::size_t wanted = lock.owns_lock() ? std::clamp<std::size_t>(threads, 1, most) : 1;
    std::unique_ptr<ThreadPool>& pool = shared().pool;
    if (wanted > 1 && (pool == nullptr || pool->asked() < wanted)) pool = std::make_unique<ThreadPool>(wanted);
    const std::size_t parts = wanted > 1 ? std::min(wanted, pool->threads()) : 1;
    const Buffer<unsigned char> scratch(parts * scratch_bytes);
    const auto part = [&](const Worker& worker) {
        if (worker.index >= parts) return;
        const Range own = Worker{nullptr, worker.index, parts}.share(total, Task::kUnit);
        if (own.begin < own.end) run(task, own.begin, own.end, scratch.data() + worker.index * scratch_bytes);
    };
    if (parts > 1) return pool->run(part);
    part(Worker{nullptr, 0, 1});
}

template <class Task>
void in_parts(const char* op, std::size_t total, std::size_t threads, const Task& task,
              void (*run)(const Task&, std::size_t, std::size_t, void*)) {
    try {
        const nb::gil_scoped_release released;
        share(total, threads, task, run);
    } catch (const std::bad_alloc&) {
        PyErr_Format(PyExc_MemoryError, "[%s] there is no memory for the working space of %zu threads; try fewer", op, threads);
        throw nb::python_error();
    }
}

void require(bool fits, const char* message) {
    if (!fits) throw nb::value_error(message);
}

void exact_kmeans(const Points& x, const Points& p, bool limited, double low, double high, Centroids out, std::size_t threads) {
    const std::size_t groups = x.shape(0), n = x.shape(1), k = out.shape(1);
    require(p.shape(0) == groups && p.shape(1) == n && out.shape(0) == groups,
            "[exact_kmeans] x, p and out must have the same groups, and p the shape of x");
    require(k >= 1 && k <= kMostCentroids && n >= 1 && n <= kMostPoints,
            "[exact_kmeans] a group must have 1 to 16 centroids and 1 to 16384 points");
    const KMeans task{x.data(), p.data(), groups, n, static_cast<int>(k), limited, low, high, out.data()};
    in_parts("exact_kmeans", groups, threads, task, operations().exact_kmeans);
}

// The body's function for floats or for doubles.
template <class T, class F32, class F64>
auto of_type(F32 f32, F64 f64) {
    if constexpr (sizeof(T) == sizeof(float)) return f32;
    else return f64;
}

template <class T, int axes>
using Array = nb::ndarray<T, nb::ndim<axes>, nb::c_contig, nb::device::cpu>;

template <class T>
void round_columns(bool descent, int bits, Array<T, 2> block, const Array<const T, 2>& matrix, const Array<const std::int32_t, 1>& table,
                   const std::optional<Array<const float, 2>>& scale, const std::optional<Array<const float, 2>>& zero,
                   const std::optional<Array<const T, 3>>& centroids, const std::optional<Array<const std::uint8_t, 3>>& names,
                   const std::optional<Array<const T, 1>>& row_scale, Array<std::uint8_t, 2> codes, Array<T, 2> changes, std::size_t threads) {
    const std::size_t columns = block.shape(0), rows = block.shape(1), K = std::size_t(1) << bits;
    require(bits >= 1 && bits <= 8 && columns > 0, "[round_columns] bits must be 1 to 8, and block must have a column");
    require(matrix.shape(0) == columns && matrix.shape(1) == columns && table.shape(0) == columns,
            "[round_columns] matrix and table must have the columns of block");
    require(codes.shape(0) == columns && codes.shape(1) == rows && changes.shape(0) == columns && changes.shape(1) == rows,
            "[round_columns] codes and changes must have the shape of block");
    require(centroids.has_value() != scale.has_value(), "[round_columns] either scale or centroids must be given");
    std::size_t tables = 0;
    if (scale) {
        tables = scale->shape(0);
        require(scale->shape(1) == rows && zero && zero->shape(0) == tables && zero->shape(1) == rows,
                "[round_columns] scale and zero must have the rows of block");
    } else {
        tables = centroids->shape(0);
        require(bits <= 4 && centroids->shape(1) == K && centroids->shape(2) == rows && row_scale && row_scale->shape(0) == rows,
                "[round_columns] centroids and row_scale must have the rows of block");
        require(descent || (names && names->shape(0) == tables && names->shape(1) == K && names->shape(2) == rows),
                "[round_columns] names must have the shape of centroids");
    }
    for (std::size_t i = 0; i < columns; ++i) {
        require(table(i) >= 0 && static_cast<std::size_t>(table(i)) < tables, "[round_columns] each column must have a table that exists");
    }
    const Columns<T> task{descent, columns, rows, tables, bits, block.data(), matrix.data(), table.data(), scale ? scale->data() : nullptr,
                          zero ? zero->data() : nullptr, centroids ? centroids->data() : nullptr, names ? names->data() : nullptr,
                          row_scale ? row_scale->data() : nullptr, codes.data(), changes.data()};
    in_parts("round_columns", rows, threads, task, of_type<T>(operations().round_columns_f32, operations().round_columns_f64));
}

template <class T>
void round_scaled_columns(bool descent, int fits, T penalty, Array<T, 2> block, const std::optional<Array<const T, 2>>& matrix,
                          const std::optional<Array<const T, 2>>& E, const Array<const T, 2>& tables, const Array<const std::int32_t, 1>& widths,
                          const Array<const T, 1>& row_scale, Array<T, 1> scales, Array<std::uint8_t, 2> codes, Array<T, 2> changes) {
    const std::size_t columns = block.shape(0), rows = block.shape(1), entries = tables.shape(1);
    require(entries <= kMostEntries && columns > 0, "[round_scaled_columns] tables must have 64 entries at most, and block must have a column");
    require(!matrix || (matrix->shape(0) == columns && matrix->shape(1) == columns),
            "[round_scaled_columns] matrix must have the columns of block");
    require(!descent || (matrix && E && E->shape(0) == columns && E->shape(1) == rows),
            "[round_scaled_columns] descent needs matrix, and E of the shape of block");
    require(widths.shape(0) == columns && scales.shape(0) == columns && row_scale.shape(0) == rows,
            "[round_scaled_columns] widths and scales must have the columns of block, and row_scale its rows");
    require(codes.shape(0) == columns && codes.shape(1) == rows && changes.shape(0) == columns && changes.shape(1) == rows,
            "[round_scaled_columns] codes and changes must have the shape of block");
    for (std::size_t i = 0; i < columns; ++i) {
        const std::int32_t width = widths(i);
        require(width >= 1 && width <= 6 && static_cast<std::size_t>(width) < tables.shape(0) && std::size_t(1) << width <= entries,
                "[round_scaled_columns] each column must have a table that exists");
        const std::uint8_t* own = codes.data() + i * rows;
        require(!descent || std::find_if(own, own + rows, [width](std::uint8_t code) { return code >> width != 0; }) == own + rows,
                "[round_scaled_columns] codes must be entries of their column's table");
    }
    const ScaledColumns<T> task{descent, columns, rows, entries, fits, penalty, block.data(), matrix ? matrix->data() : nullptr,
                                E ? E->data() : nullptr, tables.data(), widths.data(), row_scale.data(), scales.data(), codes.data(),
                                changes.data()};
    in_parts("round_scaled_columns", 1, 1, task,
             of_type<T>(operations().round_scaled_columns_f32, operations().round_scaled_columns_f64));
}

template <class T>
void code_gram(const Array<const std::uint8_t, 2>& codes, const Array<const T, 2>& H, const Array<const T, 1>& scale, std::size_t group_rows,
               Array<T, 3> N, std::size_t threads) {
    const std::size_t columns = codes.shape(0), rows = codes.shape(1), K = N.shape(1);
    require(H.shape(0) == columns && H.shape(1) == columns && scale.shape(0) == rows,
            "[code_gram] H must have the columns of codes, and scale its rows");
    require(K >= 1 && K <= kMostCentroids && N.shape(2) == K, "[code_gram] N must be (row blocks, K, K) with K 1 to 16");
    require(group_rows > 0 && N.shape(0) == (rows + group_rows - 1) / group_rows, "[code_gram] N must have one table for each row block");
    const std::uint8_t* end = codes.data() + columns * rows;
    require(std::find_if(codes.data(), end, [K](std::uint8_t code) { return code >= K; }) == end, "[code_gram] codes must be below K");
    const Gram<T> task{codes.data(), H.data(), scale.data(), columns, rows, group_rows, K, N.data()};
    in_parts("code_gram", N.shape(0), threads, task, of_type<T>(operations().code_gram_f32, operations().code_gram_f64));
}

template <class T>
void step_coefficients(const Array<const T, 3>& N, const Array<const T, 2>& g, const Array<const T, 2>& u, const Array<const T, 2>& solved,
                       const Array<const T, 2>& basis, int shift, int passes, T low, T high, T largest, Array<T, 2> better,
                       std::size_t threads) {
    const std::size_t tables = N.shape(0), K = N.shape(1), R = basis.shape(0);
    require(K <= kMostCentroids && N.shape(2) == K && g.shape(0) == tables && g.shape(1) == K && basis.shape(1) == K && R <= K,
            "[step_coefficients] N, g and basis must have the same K, at most 16, and R must be at most K");
    require(u.shape(0) == tables && solved.shape(0) == tables && better.shape(0) == tables && u.shape(1) == R && solved.shape(1) == R &&
                better.shape(1) == R && shift >= 0 && shift <= 14,
            "[step_coefficients] u, solved and better must have R coefficients for each table, and shift must be 0 to 14");
    const Coefficients<T> task{N.data(), g.data(), u.data(), solved.data(), basis.data(), K, R, shift, passes, low, high, largest,
                               better.data()};
    in_parts("step_coefficients", tables, threads, task, of_type<T>(operations().step_coefficients_f32, operations().step_coefficients_f64));
}

template <class T>
void round_pairs(bool descent, std::ptrdiff_t alone, std::size_t group_rows, Array<T, 2> block, const Array<const T, 2>& matrix,
                 const Array<const T, 3>& tables, const Array<const T, 1>& row_scale, Array<std::uint8_t, 2> codes, Array<T, 2> changes,
                 std::size_t threads) {
    const std::size_t columns = block.shape(0), rows = block.shape(1), pairs = (columns + 1) / 2, K = tables.shape(2);
    require(columns > 0 && (descent || columns % 2 == 0), "[round_pairs] block must have whole pairs of columns");
    require(matrix.shape(0) == columns && matrix.shape(1) == columns && row_scale.shape(0) == rows && codes.shape(0) == pairs &&
                codes.shape(1) == rows && changes.shape(0) == columns && changes.shape(1) == rows,
            "[round_pairs] matrix, row_scale, codes and changes must have the columns and rows of block");
    require(K >= 1 && K <= 256 && tables.shape(1) == 2 && group_rows > 0 && tables.shape(0) == (rows + group_rows - 1) / group_rows,
            "[round_pairs] tables must be (row groups, 2, K) with K 1 to 256");
    const std::uint8_t *begin = codes.data(), *end = begin + pairs * rows;
    require(!descent || std::find_if(begin, end, [K](std::uint8_t code) { return code >= K; }) == end,
            "[round_pairs] codes must be below K");
    const PairColumns<T> task{descent, columns, rows, group_rows, K, alone < 0 ? pairs : static_cast<std::size_t>(alone), block.data(),
                              matrix.data(), tables.data(), row_scale.data(), codes.data(), changes.data()};
    in_parts("round_pairs", rows, threads, task, of_type<T>(operations().round_pairs_f32, operations().round_pairs_f64));
}

template <class T>
void sum_clusters(const Array<const T, 3>& x, const Array<const T, 3>& p, const Array<const T, 3>& centroids, Array<T, 4> sums,
                  std::size_t threads) {
    const std::size_t groups = x.shape(0), n = x.shape(1), k = centroids.shape(1);
    require(x.shape(2) == 2 && p.shape(0) == groups && p.shape(1) == n && p.shape(2) == 2,
            "[sum_clusters] x and p must be (groups, points, 2)");
    require(k >= 1 && k <= 256 && centroids.shape(0) == groups && centroids.shape(2) == 2 && sums.shape(0) == groups && sums.shape(1) == k &&
                sums.shape(2) == 3 && sums.shape(3) == 2,
            "[sum_clusters] centroids must be (groups, k, 2) and sums (groups, k, 3, 2), with k 1 to 256");
    const PairClusters<T> task{x.data(), p.data(), centroids.data(), n, k, sums.data()};
    in_parts("sum_clusters", groups, threads, task, of_type<T>(operations().sum_clusters_f32, operations().sum_clusters_f64));
}

template <class T>
void bind_of(nb::module_& module) {
    using namespace nanobind::literals;
    module.def("round_columns", &round_columns<T>, "descent"_a, "bits"_a, "block"_a.noconvert(), "matrix"_a.noconvert(), "table"_a.noconvert(),
               "scale"_a.none(), "zero"_a.none(), "centroids"_a.none(), "names"_a.none(), "row_scale"_a.none(), "codes"_a.noconvert(),
               "changes"_a.noconvert(), "threads"_a, "Rounds a block of columns, by error feedback or descent. See native/workshop.h.");
    module.def("round_scaled_columns", &round_scaled_columns<T>, "descent"_a, "fits"_a, "penalty"_a, "block"_a.noconvert(), "matrix"_a.none(),
               "E"_a.none(), "tables"_a.noconvert(), "widths"_a.noconvert(), "row_scale"_a.noconvert(), "scales"_a.noconvert(),
               "codes"_a.noconvert(), "changes"_a.noconvert(),
               "Rounds a block of columns that have a scale each, by error feedback or descent. See native/workshop.h.");
    module.def("code_gram", &code_gram<T>, "codes"_a, "H"_a.noconvert(), "scale"_a.noconvert(), "group_rows"_a, "N"_a.noconvert(), "threads"_a,
               "Sums of H by pairs of codes; writes N (row blocks, K, K). See quantizers/codebook/update.py.");
    module.def("step_coefficients", &step_coefficients<T>, "N"_a.noconvert(), "g"_a.noconvert(), "u"_a.noconvert(), "solved"_a.noconvert(),
               "basis"_a.noconvert(), "shift"_a, "passes"_a, "low"_a, "high"_a, "largest"_a, "better"_a.noconvert(), "threads"_a,
               "Better coefficients of compressed tables; writes better (tables, R). See quantizers/codebook/factors.py.");
    module.def("round_pairs", &round_pairs<T>, "descent"_a, "alone"_a, "group_rows"_a, "block"_a.noconvert(), "matrix"_a.noconvert(),
               "tables"_a.noconvert(), "row_scale"_a.noconvert(), "codes"_a.noconvert(), "changes"_a.noconvert(), "threads"_a,
               "Codes for a block of pairs of columns, by error feedback or descent. See native/workshop.h.");
    module.def("sum_clusters", &sum_clusters<T>, "x"_a.noconvert(), "p"_a.noconvert(), "centroids"_a.noconvert(), "sums"_a.noconvert(),
               "threads"_a, "Sums of points by nearest centroid; writes sums (groups, k, 3, 2). See quantizers/pairs/clustering.py.");
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
