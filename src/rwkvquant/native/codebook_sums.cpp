// The small problems of the M-step, one for each table: quantizers/codebook/update.py and factors.py are the definitions.
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kMost = 16;

template <class T>
void fill(T* to, std::size_t count, T value) {
    for (std::size_t i = 0; i < count; ++i) to[i] = value;
}

template <class T>
void copy(const T* from, std::size_t count, T* to) {
    for (std::size_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class T>
T clamped(T value, T low, T high) {
    return value < low ? low : high < value ? high : value;
}

inline float whole_below(float value) { return __builtin_floorf(value); }
inline double whole_below(double value) { return __builtin_floor(value); }

// N = sum over the rows of a block of s^2 A^T H A, where A (columns, K) is the one-hot codes of a row. First A^T H, from whole rows of H,
// then its columns.
template <class T>
void sum(const Gram<T>& task, std::size_t begin, std::size_t end, void* scratch) {
    T* const of_code = static_cast<T*>(scratch);  // (K, columns)
    for (std::size_t table = begin; table < end; ++table) {
        T* N = task.N + table * task.K * task.K;
        fill(N, task.K * task.K, T(0));
        const std::size_t first = table * task.group_rows, stop = first + task.group_rows < task.rows ? first + task.group_rows : task.rows;
        for (std::size_t r = first; r < stop; ++r) {
            const T square = task.scale[r] * task.scale[r];
            fill(of_code, task.K * task.columns, T(0));
            for (std::size_t j = 0; j < task.columns; ++j) {
                T* sums = of_code + task.codes[j * task.rows + r] * task.columns;
                const T* H = task.H + j * task.columns;
                for (std::size_t i = 0; i < task.columns; ++i) sums[i] += H[i];
            }
            for (std::size_t i = 0; i < task.columns; ++i) {
                T* row = N + task.codes[i * task.rows + r] * task.K;
                for (std::size_t k = 0; k < task.K; ++k) row[k] += square * of_code[k * task.columns + i];
            }
        }
    }
}

template <class T>
struct Table {
    const Coefficients<T>& task;
    const T *N, *g;
    T start[kMost], unit, half;

    Table(const Coefficients<T>& of, std::size_t table) : task(of), N(of.N + table * of.K * of.K), g(of.g + table * of.K) {
        unit = T(1 << of.shift), half = T(1 << of.shift >> 1);
        centroids(of.u + table * of.R, start);
    }

    void centroids(const T* u, T* c) const {
        for (std::size_t k = 0; k < task.K; ++k) {
            T total = half;
            for (std::size_t r = 0; r < task.R; ++r) total += u[r] * task.basis[r * task.K + k];
            c[k] = clamped(whole_below(total / unit), task.low, task.high);
        }
    }

    // d N d^T - 2 g.d, where d is how far these coefficients move the centroids.
    T change(const T* u) const {
        T d[kMost], total = 0;
        centroids(u, d);
        for (std::size_t k = 0; k < task.K; ++k) d[k] -= start[k];
        for (std::size_t k = 0; k < task.K; ++k) {
            T row = 0;
            for (std::size_t l = 0; l < task.K; ++l) row += N[k * task.K + l] * d[l];
            total += d[k] * (row - 2 * g[k]);
        }
        return total;
    }
};

template <class T>
void step(const Coefficients<T>& task, std::size_t begin, std::size_t end) {
    for (std::size_t table = begin; table < end; ++table) {
        const Table<T> here(task, table);
        T* best = task.better + table * task.R;
        T tried[kMost], least = 0;
        copy(task.u + table * task.R, task.R, best);
        const auto take = [&] {
            const T changed = here.change(tried);
            if (changed < least) least = changed, copy(tried, task.R, best);
        };
        copy(task.solved + table * task.R, task.R, tried);
        take();
        for (int pass = 0; pass < task.passes; ++pass) {
            for (std::size_t r = 0; r < task.R; ++r) {
                for (int sign = 1; sign >= -1; sign -= 2) {
                    copy(best, task.R, tried);
                    tried[r] = clamped(tried[r] + T(sign), -task.largest, task.largest);
                    take();
                }
            }
        }
    }
}

}  // namespace

void code_gram_f32(const Gram<float>& task, std::size_t begin, std::size_t end, void* scratch) { sum(task, begin, end, scratch); }
void code_gram_f64(const Gram<double>& task, std::size_t begin, std::size_t end, void* scratch) { sum(task, begin, end, scratch); }
void step_coefficients_f32(const Coefficients<float>& task, std::size_t begin, std::size_t end, void*) { step(task, begin, end); }
void step_coefficients_f64(const Coefficients<double>& task, std::size_t begin, std::size_t end, void*) { step(task, begin, end); }

}  // namespace rwkvquant::RWKVQUANT_BODY
