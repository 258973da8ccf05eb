// What quantising calls. Every dtype, size and contiguity is checked here, because below are raw pointers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <string_view>

#include "bindings.h"
#include "dispatch.h"
#include "workshop_operations.h"

namespace nb = nanobind;

namespace rwkvquant {
namespace {

using Points = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Centroids = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
constexpr std::size_t kMostCentroids = 16, kMostPoints = 1 << 14;

void exact_kmeans(const Points& x, const Points& p, bool limited, double low, double high, Centroids out) {
    const std::size_t groups = x.shape(0), n = x.shape(1), k = out.shape(1);
    if (p.shape(0) != groups || p.shape(1) != n || out.shape(0) != groups) throw nb::value_error("[exact_kmeans] x, p and out differ in shape");
    if (k < 1 || k > kMostCentroids || n < 1 || n > kMostPoints) throw nb::value_error("[exact_kmeans] 1 to 16 centroids for 1 to 16384 points");
    const KMeans task{x.data(), p.data(), groups, n, static_cast<int>(k), limited, low, high, out.data()};
    [[maybe_unused]] const std::string_view isa = operations().isa;  // ARM has one body
    const nb::gil_scoped_release released;
#if defined(RWKVQUANT_X86)
    if (isa == "avx512") return avx512::exact_kmeans(task);
    if (isa == "avx2") return avx2::exact_kmeans(task);
#endif
    plain::exact_kmeans(task);
}

}  // namespace

void bind_workshop(nb::module_& module) {
    using namespace nanobind::literals;
    module.def("exact_kmeans", &exact_kmeans, "x"_a, "p"_a, "limited"_a, "low"_a, "high"_a, "out"_a.noconvert(),
               "Sorted points and weights (groups, n) float64; writes centroids (groups, k) float64. See quantizers/clustering.py.");
}

}  // namespace rwkvquant
