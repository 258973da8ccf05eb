// Loops that quantising, not running, would spend its time in. Definitions in quantizers/, which call these where the module is built.
#pragma once

#include <cstddef>
#include <string_view>

namespace rwkvquant {

// Weighted 1-D k-means by dynamic programming; the definition is quantizers/clustering.py, `_exact`.
struct KMeans {
    const double *x, *p;  // (groups, n) points, ascending in each group, and their weights, none negative, not all 0
    std::size_t groups, n;
    int k;                // at most 16
    bool limited;         // centroids are whole numbers in low..high
    double low, high;
    double* centroids;    // (groups, k)
};

}  // namespace rwkvquant

#define RWKVQUANT_WORKSHOP_OPERATIONS(body)                                                 \
    namespace rwkvquant::body {                                                             \
    void exact_kmeans(const KMeans& task);                                                  \
    }

RWKVQUANT_WORKSHOP_OPERATIONS(plain)
#if defined(RWKVQUANT_X86)
RWKVQUANT_WORKSHOP_OPERATIONS(avx2)
RWKVQUANT_WORKSHOP_OPERATIONS(avx512)
#endif
