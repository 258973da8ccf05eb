// Codes for a block of pairs of columns, 64 rows at a time: with error feedback (quantizers/pairs/walk.py), or by coordinate descent
// (quantizers/pairs/descent.py). Those are the definitions. Here all columns of some rows come first, so that a block stays in the cache,
// and each entry of a table is compared with many rows at once. Rows do not depend on one another, so results do not depend on which
// thread has which rows.
#include <cstring>

#include "operations.h"
#include "registers.h"
#include "row_tiles.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kMost = 256;
static_assert(PairColumns<float>::kUnit == kTile);
constexpr std::size_t kTogether = 16;              // rows that an entry is compared with
constexpr std::size_t kFilled = kTile + kTogether;  // after the last row there may be some that do not count

// A table as it is compared: entry k costs a row  alone_k + x0 c0_k + x1 c1_k.
template <class T>
struct Costs {
    typedef T Vec __attribute__((vector_size(kRegister)));

    T alone[kMost], c0[kMost], c1[kMost];

    // The entry that costs least, if that is less than `least`; else `code` stays. The first of equals. kTogether rows. GCC makes no
    // vectors of plain loops here: it unrolls the inner one first.
    void choose(const T* x0, const T* x1, std::size_t K, const T* least, T* code) const {
        constexpr std::size_t count = kTogether * sizeof(T) / kRegister;
        Vec a[count], b[count], best[count], at[count];
        std::memcpy(a, x0, sizeof a), std::memcpy(b, x1, sizeof b), std::memcpy(best, least, sizeof best), std::memcpy(at, code, sizeof at);
        for (std::size_t k = 0; k < K; ++k) {
            const Vec name = static_cast<T>(k) - Vec{};
            for (std::size_t i = 0; i < count; ++i) {
                const Vec cost = alone[k] + (a[i] * c0[k] + b[i] * c1[k]);
                const auto less = cost < best[i];
                best[i] = less ? cost : best[i];
                at[i] = less ? name : at[i];
            }
        }
        std::memcpy(code, at, sizeof at);
    }
};

// Some rows. Arrays of rows have kFilled places.
template <class T>
struct Tile {
    const PairColumns<T>& task;
    const std::size_t first, count, K;
    T scale[kTile];

    Tile(const PairColumns<T>& of, std::size_t from, std::size_t rows) : task(of), first(from), count(rows), K(of.K) {
        for (std::size_t r = 0; r < kTile; ++r) scale[r] = r < count ? of.row_scale[first + r] : T(1);
    }

    // The first row after `r` that has another table than it, or the end.
    std::size_t end_of_table(std::size_t r) const {
        const std::size_t next = ((first + r) / task.group_rows + 1) * task.group_rows - first;
        return next < count ? next : count;
    }

    const T* table(std::size_t r) const { return task.tables + (first + r) / task.group_rows * 2 * K; }  // (2, K)

    void entries(const T* code, T* c0, T* c1) const {
        for (std::size_t r = 0; r < count;) {
            const T* const of = table(r);
            for (const std::size_t end = end_of_table(r); r < end; ++r) {
                const std::size_t k = static_cast<std::size_t>(code[r]);
                c0[r] = of[k], c1[r] = of[K + k];
            }
        }
    }

    // Calls prepare(table, costs) for each table, and chooses the codes of its rows. Rows are taken kTogether at a time, so codes are also
    // written after the rows of a table: those of the next table come later.
    template <class Prepare>
    void choose(const T* x0, const T* x1, const T* least, const T* old, T* code, Prepare prepare) const {
        Costs<T> costs;
        for (std::size_t r = 0; r < count;) {
            prepare(table(r), costs);
            const std::size_t end = end_of_table(r);
            for (std::size_t at = r; at < end; at += kTogether) {
                for (std::size_t each = at; each < at + kTogether; ++each) code[each] = old[each];
                costs.choose(x0 + at, x1 + at, K, least + at, code + at);
            }
            r = end;
        }
    }

    void store_codes(const T* code, std::size_t pair) const {
        for (std::size_t r = 0; r < count; ++r) task.codes[pair * task.rows + first + r] = static_cast<std::uint8_t>(code[r]);
    }
};

// w_j -= f0_j x0 + f1_j x1 for columns begin..end.
template <class T>
void spread(const T* f0, const T* f1, const T* x0, const T* x1, std::size_t begin, std::size_t end, T* w) {
    for (std::size_t j = begin; j < end; ++j) {
        const T first = f0[j], second = f1[j];
        for (std::size_t r = 0; r < kTile; ++r) w[j * kTile + r] -= first * x0[r] + second * x1[r];
    }
}

// With y = x U^-1 for both x = w / s and the entries c, the cost |a|^2 is |y_x|^2 - 2 y_x y_c + |y_c|^2.
template <class T>
void walk_tile(const PairColumns<T>& task, std::size_t first, std::size_t count, T* w) {
    const Tile<T> tile(task, first, count);
    T y0[kFilled] = {}, y1[kFilled] = {}, least[kFilled], none[kFilled] = {}, code[kFilled] = {}, c0[kTile] = {}, c1[kTile] = {};
    for (T& each : least) each = static_cast<T>(__builtin_inf());
    load(task.block, task.columns, task.rows, first, count, w, T(0));
    for (std::size_t i = 0; i < task.columns; i += 2) {
        const T *U0 = task.matrix + i * task.columns, *U1 = U0 + task.columns;
        const T u00 = U0[i], u01 = U0[i + 1], u11 = U1[i + 1];
        T *const w0 = w + i * kTile, *const w1 = w0 + kTile;
        const bool alone = i / 2 == task.alone;
        for (std::size_t r = 0; r < kTile; ++r) {
            y0[r] = w0[r] / tile.scale[r] / u00;
            y1[r] = alone ? T(0) : (w1[r] / tile.scale[r] - y0[r] * u01) / u11;
        }
        tile.choose(y0, y1, least, none, code, [&](const T* table, Costs<T>& costs) {
            for (std::size_t k = 0; k < tile.K; ++k) {
                const T z0 = table[k] / u00, z1 = alone ? T(0) : (table[tile.K + k] - z0 * u01) / u11;
                costs.alone[k] = z0 * z0 + z1 * z1, costs.c0[k] = -2 * z0, costs.c1[k] = -2 * z1;
            }
        });
        tile.store_codes(code, i / 2);
        tile.entries(code, c0, c1);
        for (std::size_t r = 0; r < kTile; ++r) {
            w0[r] = (w0[r] - tile.scale[r] * c0[r]) / u00;
            w1[r] = alone ? T(0) : (w1[r] - tile.scale[r] * c1[r] - w0[r] * u01) / u11;
        }
        spread(U0, U1, w0, w1, i + 2, task.columns, w);
    }
    store(w, task.columns, task.rows, first, count, task.changes);
}

template <class T>
void descend_tile(const PairColumns<T>& task, std::size_t first, std::size_t count, T* G) {
    const Tile<T> tile(task, first, count);
    T* const changes = G + task.columns * kTile;
    T x0[kFilled] = {}, x1[kFilled] = {}, least[kFilled] = {}, old[kFilled] = {}, code[kFilled] = {}, none[kTile] = {};
    T c0[kTile] = {}, c1[kTile] = {}, new0[kTile] = {}, new1[kTile] = {};
    load(task.block, task.columns, task.rows, first, count, G, T(0));
    for (std::size_t i = 0; i < task.columns; i += 2) {
        const bool alone = i + 1 == task.columns;
        const T *H0 = task.matrix + i * task.columns, *H1 = alone ? H0 : H0 + task.columns, *G0 = G + i * kTile, *G1 = alone ? none : G0 + kTile;
        const T h00 = H0[i], h01 = alone ? T(0) : H0[i + 1], h10 = alone ? T(0) : H1[i], h11 = alone ? T(0) : H1[i + 1];
        for (std::size_t r = 0; r < count; ++r) old[r] = static_cast<T>(task.codes[i / 2 * task.rows + first + r]);
        tile.entries(old, c0, c1);
        for (std::size_t r = 0; r < kTile; ++r) {
            const T m0 = c0[r] * h00 + c1[r] * h10, m1 = c0[r] * h01 + c1[r] * h11;
            x0[r] = -2 * (m0 + G0[r] / tile.scale[r]);
            x1[r] = alone ? T(0) : -2 * (m1 + G1[r] / tile.scale[r]);
            least[r] = m0 * c0[r] + m1 * c1[r] + (x0[r] * c0[r] + x1[r] * c1[r]);
        }
        tile.choose(x0, x1, least, old, code, [&](const T* table, Costs<T>& costs) {
            for (std::size_t k = 0; k < tile.K; ++k) {
                const T t0 = table[k], t1 = table[tile.K + k];
                costs.alone[k] = (t0 * h00 + t1 * h10) * t0 + (t0 * h01 + t1 * h11) * t1;
                costs.c0[k] = t0, costs.c1[k] = t1;
            }
        });
        tile.store_codes(code, i / 2);
        tile.entries(code, new0, new1);
        T *const D0 = changes + i * kTile, *const D1 = alone ? none : D0 + kTile;
        for (std::size_t r = 0; r < kTile; ++r) {
            D0[r] = tile.scale[r] * (new0[r] - c0[r]);
            if (!alone) D1[r] = tile.scale[r] * (new1[r] - c1[r]);
        }
        spread(H0, H1, D0, D1, 0, task.columns, G);
    }
    store(G, task.columns, task.rows, first, count, task.block);
    store(changes, task.columns, task.rows, first, count, task.changes);
}

template <class T>
void round_all(const PairColumns<T>& task, std::size_t begin, std::size_t end, void* scratch) {
    T* const memory = static_cast<T*>(scratch);
    for_tiles(begin, end, [&](std::size_t first, std::size_t count) {
        task.descent ? descend_tile(task, first, count, memory) : walk_tile(task, first, count, memory);
    });
}

}  // namespace

void round_pairs_f32(const PairColumns<float>& task, std::size_t begin, std::size_t end, void* scratch) { round_all(task, begin, end, scratch); }
void round_pairs_f64(const PairColumns<double>& task, std::size_t begin, std::size_t end, void* scratch) { round_all(task, begin, end, scratch); }

}  // namespace rwkvquant::RWKVQUANT_BODY
