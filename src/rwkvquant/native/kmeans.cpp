// Exact 1-D k-means of many small groups: the dynamic programme of quantizers/shared/clustering.py, for 8 groups side by side.
//
//     cost(i, j) = S2 - S1^2 / S0  (+ S0 (m - stored(m))^2)          of the points i .. j-1, from running sums; m = S1 / S0
//     D_l(j)     = min over i <= j of  D_(l-1)(i) + cost(i, j)       kept for all l and j; walking back through them gives the runs
//
// Every group takes the same steps, so each lane is a group and no loads are scattered. In float64, as the definition is.
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kLanes = KMeans::kUnit;
constexpr int kMost = 16;
constexpr double kInfinity = __builtin_inf();

struct Lanes {
    double at[kLanes];
};

void fill(Lanes& lanes, double value) {
    for (double& lane : lanes.at) lane = value;
}

inline double larger(double a, double b) { return a < b ? b : a; }
inline double clamped(double value, double low, double high) { return value < low ? low : high < value ? high : value; }

// Rounds half to even, as torch does; |v| is far below 2^51.
inline double round_even(double v) { return (v + 6755399441055744.0) - 6755399441055744.0; }

struct Runs {
    const KMeans& task;
    Lanes *const s0, *const s1, *const s2, *const plain;  // running sums of p, p x, p x^2 and x, from 0; x minus the group's weighted mean
    Lanes middle{};

    Runs(const KMeans& of, Lanes* memory)
        : task(of), s0(memory), s1(s0 + of.n + 1), s2(s1 + of.n + 1), plain(s2 + of.n + 1) {}

    void load(std::size_t first, std::size_t stop) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const std::size_t group = first + lane < stop ? first + lane : stop - 1;  // lanes beyond the end repeat the last group
            const double *x = task.x + group * task.n, *p = task.p + group * task.n;
            double weight = 0, sum = 0;
            for (std::size_t i = 0; i < task.n; ++i) weight += p[i], sum += p[i] * x[i];
            const double mean = sum / weight;
            middle.at[lane] = mean;
            s0[0].at[lane] = s1[0].at[lane] = s2[0].at[lane] = plain[0].at[lane] = 0;
            for (std::size_t i = 0; i < task.n; ++i) {
                const double d = x[i] - mean;
                s0[i + 1].at[lane] = s0[i].at[lane] + p[i];
                s1[i + 1].at[lane] = s1[i].at[lane] + p[i] * d;
                s2[i + 1].at[lane] = s2[i].at[lane] + p[i] * d * d;
                plain[i + 1].at[lane] = plain[i].at[lane] + d;
            }
        }
    }

    double stored(double mean) const { return task.limited ? clamped(round_even(mean), task.low, task.high) : mean; }

    double cost(std::size_t i, std::size_t j, std::size_t lane) const {
        const double w = s0[j].at[lane] - s0[i].at[lane], wx = s1[j].at[lane] - s1[i].at[lane], wxx = s2[j].at[lane] - s2[i].at[lane];
        const double mean = w > 0 ? wx / w : 0.0;
        const double spread = larger(wxx - wx * mean, 0.0);
        if (!task.limited) return spread;
        const double away = mean + middle.at[lane] - stored(mean + middle.at[lane]);
        return spread + w * away * away;
    }

    // The weighted mean of a run as stored; the plain mean where all weights are 0; infinity for an empty run.
    double centroid(std::size_t i, std::size_t j, std::size_t lane) const {
        if (i == j) return kInfinity;
        const double w = s0[j].at[lane] - s0[i].at[lane];
        const double mean = w > 0 ? (s1[j].at[lane] - s1[i].at[lane]) / w : (plain[j].at[lane] - plain[i].at[lane]) / double(j - i);
        return stored(mean + middle.at[lane]);
    }
};

// least[l * (n + 1) + j] = D_l(j) for 8 groups.
void fill_least(const Runs& runs, Lanes* least) {
    const std::size_t n = runs.task.n, stride = n + 1;
    const int k = runs.task.k;
    for (std::size_t each = 0; each < (static_cast<std::size_t>(k) + 1) * stride; ++each) fill(least[each], kInfinity);
    fill(least[0], 0.0);
    for (std::size_t j = 0; j <= n; ++j) {
        Lanes best[kMost + 1];
        for (int l = 1; l <= k; ++l) fill(best[l], kInfinity);
        for (std::size_t i = 0; i < j; ++i) {
            Lanes cost;
            for (std::size_t lane = 0; lane < kLanes; ++lane) cost.at[lane] = runs.cost(i, j, lane);
            for (int l = 1; l <= k; ++l) {
                const Lanes& before = least[(l - 1) * stride + i];
                for (std::size_t lane = 0; lane < kLanes; ++lane) {
                    const double candidate = before.at[lane] + cost.at[lane];
                    best[l].at[lane] = candidate < best[l].at[lane] ? candidate : best[l].at[lane];
                }
            }
        }
        for (int l = 1; l <= k; ++l) {  // a run may be empty, so k is the largest number of runs
            const Lanes& fewer = least[(l - 1) * stride + j];
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                const double of_this = j ? best[l].at[lane] : kInfinity;
                least[l * stride + j].at[lane] = fewer.at[lane] < of_this ? fewer.at[lane] : of_this;
            }
        }
    }
}

void walk_back(const Runs& runs, const Lanes* least, std::size_t lane, double* centroids) {
    const std::size_t stride = runs.task.n + 1;
    std::size_t end = runs.task.n;
    for (int level = runs.task.k; level > 0; --level) {
        std::size_t start = 0;
        double best = kInfinity;
        for (std::size_t i = 0; i <= end; ++i) {
            const double total = least[(level - 1) * stride + i].at[lane] + runs.cost(i, end, lane);
            if (total < best) best = total, start = i;
        }
        centroids[level - 1] = runs.centroid(start, end, lane);
        end = start;
    }
}

// An empty run gets the centroid before it, or the first one there is: no code points at it, and the order stays ascending.
void fill_empty(double* centroids, int k) {
    int first = 0;
    while (first < k && centroids[first] == kInfinity) ++first;
    double last = first == k ? 0.0 : centroids[first];
    for (int i = 0; i < k; ++i) last = centroids[i] = centroids[i] == kInfinity ? last : larger(last, centroids[i]);
}

}  // namespace

void exact_kmeans(const KMeans& task, std::size_t begin, std::size_t end, void* scratch) {
    Lanes* const memory = static_cast<Lanes*>(scratch);
    Runs runs(task, memory);
    Lanes* const least = memory + 4 * (task.n + 1);  // (k + 1, n + 1)
    for (std::size_t first = begin; first < end; first += kLanes) {
        runs.load(first, end);
        fill_least(runs, least);
        for (std::size_t lane = 0; lane < kLanes && first + lane < end; ++lane) {
            double* centroids = task.centroids + (first + lane) * task.k;
            walk_back(runs, least, lane, centroids);
            fill_empty(centroids, task.k);
        }
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
