// Rounding a block of columns, 64 rows at a time: with error feedback (quantizers/uniform/gptq.py, codebook_walk.py), or by coordinate descent
// (quantizers/shared/descent.py). Those are the definitions: they go from column to column, with all rows. Here all columns of some rows
// come first, so that a block stays in the cache. Rows do not depend on one another, so results do not depend on which thread has which
// rows.
#include "operations.h"
#include "row_tiles.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kMost = 16;
static_assert(Columns<float>::kUnit == kTile);

template <class T>
inline T clamped(T value, T low, T high) {
    return value < low ? low : high < value ? high : value;
}

// Rounds half to even, as torch does. Above 2^22 (floats) it rounds coarsely, but the result is clamped.
inline double round_even(double v) { return (v + 6755399441055744.0) - 6755399441055744.0; }
inline float round_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

// Grids of some rows.
template <class T>
struct Grids {
    const Columns<T>& task;
    const std::size_t first, count;
    const T top;

    Grids(const Columns<T>& of, std::size_t from, std::size_t rows) : task(of), first(from), count(rows), top(static_cast<T>((1 << of.bits) - 1)) {}

    void row(const float* of, std::size_t column, float* to, float fill) const {
        load(of + task.table[column] * task.rows, 1, task.rows, first, count, to, fill);
    }

    // The grid point nearest to w.
    void nearest(std::size_t column, const T* w, T* value, T* code) const {
        float s[kTile], z[kTile];
        row(task.scale, column, s, 1.0f), row(task.zero, column, z, 0.0f);
        for (std::size_t r = 0; r < kTile; ++r) {
            const T c = clamped(round_even(w[r] / static_cast<T>(s[r])) + static_cast<T>(z[r]), T(0), top);
            code[r] = c;
            value[r] = static_cast<T>(static_cast<float>(c - static_cast<T>(z[r])) * s[r]);
        }
    }

    // The code with the least h x^2 - 2 G x, where x is the change of the value; x is 0 where no code gains.
    void descend(std::size_t column, T h, const T* G, T* code, T* x) const {
        float s[kTile];
        row(task.scale, column, s, 1.0f);
        for (std::size_t r = 0; r < kTile; ++r) {
            const T width = static_cast<T>(s[r]), away = h > 0 ? G[r] / (h * width) : T(0);
            const T to = clamped(round_even(code[r] + away), T(0), top), change = width * (to - code[r]);
            const bool gains = h * (change * change) < 2 * G[r] * change;
            x[r] = gains ? change : T(0);
            code[r] = gains ? to : code[r];
        }
    }
};

// Codebooks of some rows: in ascending order with their codes (`names`) for `nearest`, in any order for `descend`.
template <class T>
struct Codebooks {
    const Columns<T>& task;
    const std::size_t first, count, K;
    T scale[kTile];

    Codebooks(const Columns<T>& of, std::size_t from, std::size_t rows) : task(of), first(from), count(rows), K(std::size_t(1) << of.bits) {
        load(of.row_scale, 1, of.rows, first, count, scale, T(1));
    }

    template <class From>
    void table(const From* of, std::size_t column, T* to) const {
        load(of + task.table[column] * K * task.rows, K, task.rows, first, count, to, T(0));
    }

    // The centroid nearest to w / scale; of two equally near ones the lower.
    void nearest(std::size_t column, const T* w, T* value, T* code) const {
        T c[kMost * kTile], name[kMost * kTile], x[kTile], best[kTile];
        table(task.centroids, column, c), table(task.names, column, name);
        for (std::size_t r = 0; r < kTile; ++r) x[r] = w[r] / scale[r], best[r] = c[r], code[r] = name[r];
        for (std::size_t k = kTile; k < K * kTile; k += kTile) {
            for (std::size_t r = 0; r < kTile; ++r) {
                const bool further = (c[k - kTile + r] + c[k + r]) / 2 < x[r];
                best[r] = further ? c[k + r] : best[r];
                code[r] = further ? name[k + r] : code[r];
            }
        }
        for (std::size_t r = 0; r < kTile; ++r) value[r] = scale[r] * best[r];
    }

    void descend(std::size_t column, T h, const T* G, T* code, T* x) const {
        T c[kMost * kTile], old[kTile], least[kTile], chosen[kTile];
        table(task.centroids, column, c);
        for (std::size_t r = 0; r < kTile; ++r) old[r] = 0, least[r] = 0, chosen[r] = code[r], x[r] = 0;
        for (std::size_t k = 0; k < K; ++k) {
            for (std::size_t r = 0; r < kTile; ++r) old[r] = code[r] == T(k) ? c[k * kTile + r] : old[r];
        }
        for (std::size_t k = 0; k < K; ++k) {
            for (std::size_t r = 0; r < kTile; ++r) {
                const T change = scale[r] * (c[k * kTile + r] - old[r]);
                const T cost = h * (change * change) - 2 * G[r] * change;
                const bool better = cost < least[r];
                least[r] = better ? cost : least[r];
                chosen[r] = better ? T(k) : chosen[r];
                x[r] = better ? change : x[r];
            }
        }
        for (std::size_t r = 0; r < kTile; ++r) code[r] = chosen[r];
    }
};

// w_j -= factor_j x for columns begin..end.
template <class T>
void spread(const T* factors, const T* x, std::size_t begin, std::size_t end, T* w) {
    for (std::size_t j = begin; j < end; ++j) {
        const T factor = factors[j];
        for (std::size_t r = 0; r < kTile; ++r) w[j * kTile + r] -= factor * x[r];
    }
}

template <class T, template <class> class Codec>
void walk_tile(const Columns<T>& task, std::size_t first, std::size_t count, T* scratch) {
    const Codec<T> codec(task, first, count);
    T *w = scratch, *codes = w + task.columns * kTile;
    load(task.block, task.columns, task.rows, first, count, w, T(0));
    for (std::size_t i = 0; i < task.columns; ++i) {
        const T *row = task.matrix + i * task.columns, pivot = row[i];
        T value[kTile], *error = &w[i * kTile];
        codec.nearest(i, error, value, &codes[i * kTile]);
        for (std::size_t r = 0; r < kTile; ++r) error[r] = (error[r] - value[r]) / pivot;
        spread(row, error, i + 1, task.columns, w);
    }
    store(w, task.columns, task.rows, first, count, task.changes);
    store(codes, task.columns, task.rows, first, count, task.codes);
}

template <class T, template <class> class Codec>
void descend_tile(const Columns<T>& task, std::size_t first, std::size_t count, T* scratch) {
    const Codec<T> codec(task, first, count);
    T *G = scratch, *codes = G + task.columns * kTile, *changes = codes + task.columns * kTile;
    load(task.block, task.columns, task.rows, first, count, G, T(0));
    load(task.codes, task.columns, task.rows, first, count, codes, T(0));
    for (std::size_t i = 0; i < task.columns; ++i) {
        const T* row = task.matrix + i * task.columns;
        codec.descend(i, row[i], &G[i * kTile], &codes[i * kTile], &changes[i * kTile]);
        spread(row, &changes[i * kTile], 0, task.columns, G);
    }
    store(G, task.columns, task.rows, first, count, task.block);
    store(changes, task.columns, task.rows, first, count, task.changes);
    store(codes, task.columns, task.rows, first, count, task.codes);
}

template <class T>
void round(const Columns<T>& task, std::size_t begin, std::size_t end, void* scratch) {
    T* const memory = static_cast<T*>(scratch);
    for_tiles(begin, end, [&](std::size_t first, std::size_t count) {
        if (task.descent) {
            task.centroids ? descend_tile<T, Codebooks>(task, first, count, memory) : descend_tile<T, Grids>(task, first, count, memory);
        } else {
            task.centroids ? walk_tile<T, Codebooks>(task, first, count, memory) : walk_tile<T, Grids>(task, first, count, memory);
        }
    });
}

}  // namespace

void round_columns_f32(const Columns<float>& task, std::size_t begin, std::size_t end, void* scratch) { round(task, begin, end, scratch); }
void round_columns_f64(const Columns<double>& task, std::size_t begin, std::size_t end, void* scratch) { round(task, begin, end, scratch); }

}  // namespace rwkvquant::RWKVQUANT_BODY
