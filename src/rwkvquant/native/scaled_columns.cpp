// Rounding a block of columns, each with a scale of its own that is fitted to all its rows: with error feedback
// (quantizers/columnwise/walk.py), or by coordinate descent (update.py). Those are the definitions.
//
// A scale needs sums over all rows of its column before any other column can be changed, so columns are taken one after the other, and the
// caller takes so few at a time that they stay in the cache. Row r is added to sum r % kTile of as many sums, and these are added at the
// end: a sum has one order in all bodies.
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kTile = ScaledColumns<float>::kTile;
inline std::size_t padded_to_tiles(std::size_t rows) { return (rows + kTile - 1) / kTile * kTile; }
constexpr float kSmallest = 0x1p-24f, kLargest = 65504.0f;  // of float16

template <class T>
T total(T (&sums)[kTile]) {
    for (std::size_t half = kTile / 2; half > 0; half /= 2) {
        for (std::size_t r = 0; r < half; ++r) sums[r] += sums[r + half];
    }
    return sums[0];
}

// The nearest number that a file can hold as a scale, above 0. Through float32, as torch does. NaN stays NaN.
template <class T>
T as_half(T scale) {
    const T inside = scale < T(kSmallest) ? T(kSmallest) : T(kLargest) < scale ? T(kLargest) : scale;
    const float value = static_cast<float>(inside);
    float step = 0x1p-14f;  // the power of two below value, but at least that of the smallest float16 that has all its bits
    while (step * 2 <= value) step *= 2;
    const float magic = step * 12288.0f;  // 1.5 * 2^13: a sum with it has the last bit of a float16 as its last bit
    return static_cast<T>((value + magic) - magic);
}

template <class T>
struct Table {
    const T* entries;
    std::size_t size;
    T middles[63];

    Table(const ScaledColumns<T>& task, std::size_t column)
        : entries(task.tables + static_cast<std::size_t>(task.widths[column]) * task.entries), size(std::size_t(1) << task.widths[column]) {
        for (std::size_t k = 1; k < size; ++k) middles[k - 1] = (entries[k] + entries[k - 1]) / 2;
    }

    // The entries nearest to kTile values, of two equally near ones the lower; and their codes.
    void nearest(const T (&x)[kTile], T (&entry)[kTile]) const {
        for (std::size_t r = 0; r < kTile; ++r) entry[r] = entries[0];
        for (std::size_t k = 1; k < size; ++k) {
            const T middle = middles[k - 1], above = entries[k];
            for (std::size_t r = 0; r < kTile; ++r) entry[r] = middle < x[r] ? above : entry[r];
        }
    }
    void nearest(const T (&x)[kTile], T (&entry)[kTile], T (&code)[kTile]) const {
        nearest(x, entry);
        for (std::size_t r = 0; r < kTile; ++r) code[r] = 0;
        for (std::size_t k = 1; k < size; ++k) {
            const T middle = middles[k - 1];
            for (std::size_t r = 0; r < kTile; ++r) code[r] += middle < x[r] ? T(1) : T(0);
        }
    }
};

// w_j -= factor_j x for columns begin..end.
template <class T>
void spread(const T* factors, const T* x, std::size_t begin, std::size_t end, std::size_t rows, T* w) {
    for (std::size_t j = begin; j < end; ++j) {
        const T factor = factors[j];
        T* const column = w + j * rows;
        for (std::size_t r = 0; r < rows; ++r) column[r] -= factor * x[r];
    }
}

// One round of Lloyd's iteration. w (padded,) is divided by the scales of rows, and s2 has their squares; both are 0 after the rows.
template <class T>
T fitted(const Table<T>& table, const T* w, const T* s2, std::size_t padded, T scale) {
    T with_w[kTile] = {}, with_t[kTile] = {};
    for (std::size_t first = 0; first < padded; first += kTile) {
        T x[kTile], t[kTile];
        for (std::size_t r = 0; r < kTile; ++r) x[r] = w[first + r] / scale;
        table.nearest(x, t);
        for (std::size_t r = 0; r < kTile; ++r) {
            const T st = s2[first + r] * t[r];
            with_w[r] += st * w[first + r];
            with_t[r] += st * t[r];
        }
    }
    const T best = total(with_w) / total(with_t);
    return best > 0 && __builtin_isfinite(best) ? best : scale;
}

template <class T>
void walk(const ScaledColumns<T>& task, T* scratch) {
    const std::size_t rows = task.rows, padded = padded_to_tiles(task.rows);
    T *const w = scratch, *const s2 = w + padded;
    for (std::size_t r = 0; r < padded; ++r) w[r] = 0, s2[r] = r < rows ? task.row_scale[r] * task.row_scale[r] : T(0);
    for (std::size_t i = 0; i < task.columns; ++i) {
        const Table<T> table(task, i);
        const T* const block = task.block + i * rows;
        for (std::size_t r = 0; r < rows; ++r) w[r] = block[r] / task.row_scale[r];
        T scale = task.scales[i];
        for (int fit = 0; fit < task.fits; ++fit) scale = fitted(table, w, s2, padded, scale);
        scale = task.scales[i] = as_half(scale);
        const T* const factors = task.matrix == nullptr ? nullptr : task.matrix + i * task.columns;
        for (std::size_t first = 0; first < rows; first += kTile) {
            const std::size_t count = rows - first < kTile ? rows - first : kTile;
            T x[kTile], t[kTile], code[kTile];
            for (std::size_t r = 0; r < kTile; ++r) x[r] = w[first + r] / scale;
            table.nearest(x, t, code);
            for (std::size_t r = 0; r < count; ++r) task.codes[i * rows + first + r] = static_cast<std::uint8_t>(code[r]);
            if (factors == nullptr) continue;
            for (std::size_t r = 0; r < count; ++r) {
                const T value = task.row_scale[first + r] * (scale * t[r]);
                task.changes[i * rows + first + r] = (block[first + r] - value) / factors[i];
            }
        }
        if (factors != nullptr) spread(factors, task.changes + i * rows, i + 1, task.columns, rows, task.block);
    }
}

// The change of a scale that loses least, if any gains: g is the gradient, y what the scale is multiplied by, h the diagonal of H.
template <class T>
T better(T scale, T slope, T curve) {
    const T step = slope / curve, to = as_half(scale + (__builtin_isfinite(step) ? step : T(0))), change = to - scale;
    return change * (2 * slope - change * curve) > 0 ? to : scale;
}

template <class T>
void descend(const ScaledColumns<T>& task, T* scratch) {
    const std::size_t rows = task.rows, padded = padded_to_tiles(task.rows);
    T *const s = scratch, *const old = s + padded, *const y = old + padded, *const g = y + padded;
    for (std::size_t r = 0; r < padded; ++r) s[r] = r < rows ? task.row_scale[r] : T(1), old[r] = y[r] = g[r] = 0;
    for (std::size_t i = 0; i < task.columns; ++i) {
        const Table<T> table(task, i);
        const T *const factors = task.matrix + i * task.columns, h = factors[i] + task.penalty;
        T* const changes = task.changes + i * rows;
        std::uint8_t* const codes = task.codes + i * rows;
        if (h <= 0) {
            for (std::size_t r = 0; r < rows; ++r) changes[r] = 0;
            continue;
        }
        for (std::size_t r = 0; r < rows; ++r) {
            old[r] = table.entries[codes[r]], y[r] = s[r] * old[r];
            g[r] = task.block[i * rows + r] + task.penalty * task.E[i * rows + r];
        }
        T with_g[kTile] = {}, with_y[kTile] = {};
        for (std::size_t first = 0; first < padded; first += kTile) {
            for (std::size_t r = 0; r < kTile; ++r) {
                with_g[r] += y[first + r] * g[first + r];
                with_y[r] += y[first + r] * y[first + r];
            }
        }
        const T scale = task.scales[i], to = better(scale, total(with_g), h * total(with_y));
        for (std::size_t first = 0; first < rows; first += kTile) {
            const std::size_t count = rows - first < kTile ? rows - first : kTile;
            T left[kTile], size[kTile], x[kTile], t[kTile], code[kTile];
            for (std::size_t r = 0; r < kTile; ++r) {
                left[r] = g[first + r] - h * ((to - scale) * y[first + r]);
                size[r] = s[first + r] * to;
                x[r] = old[first + r] + left[r] / (h * size[r]);
            }
            table.nearest(x, t, code);
            for (std::size_t r = 0; r < count; ++r) {
                const T change = size[r] * (t[r] - old[first + r]);
                const bool gains = h * (change * change) < 2 * left[r] * change;
                changes[first + r] = (to - scale) * y[first + r] + (gains ? change : T(0));
                codes[first + r] = gains ? static_cast<std::uint8_t>(code[r]) : codes[first + r];
            }
        }
        task.scales[i] = to;
        spread(factors, changes, 0, task.columns, rows, task.block);
    }
}

template <class T>
void round(const ScaledColumns<T>& task, void* scratch) {
    task.descent ? descend(task, static_cast<T*>(scratch)) : walk(task, static_cast<T*>(scratch));
}

}  // namespace

void round_scaled_columns_f32(const ScaledColumns<float>& task, std::size_t, std::size_t, void* scratch) { round(task, scratch); }
void round_scaled_columns_f64(const ScaledColumns<double>& task, std::size_t, std::size_t, void* scratch) { round(task, scratch); }

}  // namespace rwkvquant::RWKVQUANT_BODY
