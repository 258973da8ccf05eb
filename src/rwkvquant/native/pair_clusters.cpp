// One look at all points of two-dimensional k-means: the nearest centroid of each, and sums by centroid. quantizers/pairs/clustering.py is the
// definition. Points are added up in their order, so results do not depend on which thread has which groups.
#include <cstring>

#include "operations.h"
#include "registers.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kTogether = 16, kMost = 256;  // points that a centroid is compared with; centroids

// Without p x^2, which is the same for all, a centroid c costs a point   x0 p0 (-2 c0) + x1 p1 (-2 c1) + p0 c0^2 + p1 c1^2.
template <class T>
struct Centroids {
    typedef T Vec __attribute__((vector_size(kRegister)));

    std::size_t k;
    T twice[kMost][2], square[kMost][2];

    Centroids(const T* c, std::size_t count) : k(count) {
        for (std::size_t i = 0; i < k; ++i) {
            for (std::size_t axis = 0; axis < 2; ++axis) {
                const T value = c[2 * i + axis];
                twice[i][axis] = -2 * value, square[i][axis] = value * value;
            }
        }
    }

    // moments (2, kTogether) are p x, weights p; the first of equals is taken.
    void nearest(const T* moments, const T* weights, T* code) const {
        constexpr std::size_t count = kTogether * sizeof(T) / kRegister;
        Vec m[2][count], p[2][count], best[count], at[count] = {};
        std::memcpy(m, moments, sizeof m), std::memcpy(p, weights, sizeof p);
        for (std::size_t i = 0; i < count; ++i) best[i] = static_cast<T>(__builtin_inf()) - Vec{};
        for (std::size_t each = 0; each < k; ++each) {
            const T *f = twice[each], *g = square[each];
            const Vec name = static_cast<T>(each) - Vec{};
            for (std::size_t i = 0; i < count; ++i) {
                const Vec cost = (m[0][i] * f[0] + m[1][i] * f[1]) + (p[0][i] * g[0] + p[1][i] * g[1]);
                const auto less = cost < best[i];
                best[i] = less ? cost : best[i];
                at[i] = less ? name : at[i];
            }
        }
        std::memcpy(code, at, sizeof at);
    }
};

template <class T>
void sum(const PairClusters<T>& task, std::size_t group) {
    const T *x = task.x + 2 * task.n * group, *p = task.p + 2 * task.n * group, *c = task.centroids + 2 * task.k * group;
    T* const sums = task.sums + 6 * task.k * group;
    const Centroids<T> centroids(c, task.k);
    for (std::size_t i = 0; i < 6 * task.k; ++i) sums[i] = 0;
    for (std::size_t first = 0; first < task.n; first += kTogether) {
        const std::size_t count = task.n - first < kTogether ? task.n - first : kTogether;
        T moments[2 * kTogether] = {}, weights[2 * kTogether] = {}, code[kTogether];
        for (std::size_t i = 0; i < count; ++i) {
            for (std::size_t axis = 0; axis < 2; ++axis) {
                const std::size_t at = 2 * (first + i) + axis;
                moments[axis * kTogether + i] = p[at] * x[at], weights[axis * kTogether + i] = p[at];
            }
        }
        centroids.nearest(moments, weights, code);
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t k = static_cast<std::size_t>(code[i]);
            T* const of = sums + 6 * k;
            for (std::size_t axis = 0; axis < 2; ++axis) {
                const std::size_t at = 2 * (first + i) + axis;
                const T away = x[at] - c[2 * k + axis], weighted = p[at] * away;
                of[axis] += p[at], of[2 + axis] += weighted, of[4 + axis] += weighted * away;
            }
        }
    }
}

template <class T>
void sum_all(const PairClusters<T>& task, std::size_t begin, std::size_t end) {
    for (std::size_t group = begin; group < end; ++group) sum(task, group);
}

}  // namespace

void sum_clusters_f32(const PairClusters<float>& task, std::size_t begin, std::size_t end, void*) { sum_all(task, begin, end); }
void sum_clusters_f64(const PairClusters<double>& task, std::size_t begin, std::size_t end, void*) { sum_all(task, begin, end); }

}  // namespace rwkvquant::RWKVQUANT_BODY
