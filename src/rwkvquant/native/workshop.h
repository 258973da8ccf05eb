// The loops in which quantising would spend its time. The definitions are in quantizers/, which call these where the module is built.
//
// A range begin..end of groups, rows or tables is one thread's share, and begins at a multiple of the task's `kUnit`. Each thread has its
// own scratch memory of `scratch_bytes`, aligned to 64: bodies allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

// Weighted 1-D k-means by dynamic programming; the definition is quantizers/shared/clustering.py, `_exact`.
struct KMeans {
    const double *x, *p;  // (groups, n) points, ascending in each group, and their weights, none negative, not all 0
    std::size_t groups, n;
    int k;                // at most 16
    bool limited;         // centroids are whole numbers in low..high
    double low, high;
    double* centroids;    // (groups, k)

    static constexpr std::size_t kUnit = 8;  // groups calculated together
    std::size_t scratch_bytes() const { return (static_cast<std::size_t>(k) + 5) * (n + 1) * kUnit * sizeof(double); }
};

// A block of columns to be rounded, (columns, rows) column first; the definitions are quantizers/uniform/gptq.py, codebook_walk.py, descent.py.
template <class T>
struct Columns {
    bool descent;
    std::size_t columns, rows, tables;
    int bits;
    T* block;                  // the weights as corrected so far; in descent G, which is kept up to date
    const T* matrix;           // (columns, columns) of U, or of H
    const std::int32_t* table; // (columns) the group or column block of each
    const float *scale, *zero; // (tables, rows) of grids; zero only for error feedback
    const T* centroids;        // (tables, K, rows) of codebooks, or null
    const std::uint8_t* names; // (tables, K, rows) the codes of the centroids; only for error feedback
    const T* row_scale;        // (rows)
    std::uint8_t* codes;       // (columns, rows)
    T* changes;                // (columns, rows) error / U_qq, or the change of the value

    static constexpr std::size_t kUnit = 64;  // rows calculated together
    std::size_t scratch_bytes() const { return 3 * columns * kUnit * sizeof(T); }
};

// A block of columns that have a scale and a table each, (columns, rows) column first; a scale is fitted when its column is rounded. The
// definitions are quantizers/columnwise/walk.py and update.py.
template <class T>
struct ScaledColumns {
    bool descent;
    std::size_t columns, rows, entries;
    int fits;                   // of a scale; only for error feedback
    T penalty;                  // added to the diagonal of H; only for descent
    T* block;                   // the weights as corrected so far; in descent G, which is kept up to date
    const T* matrix;            // (columns, columns) of U, or of H; null where columns do not make up for errors
    const T* E;                 // (columns, rows); only for descent
    const T* tables;            // (.., entries) by width, ascending
    const std::int32_t* widths; // (columns)
    const T* row_scale;         // (rows)
    T* scales;                  // (columns)
    std::uint8_t* codes;        // (columns, rows)
    T* changes;                 // (columns, rows) error / U_cc, or the change of the value

    static constexpr std::size_t kUnit = 1, kTile = 32;  // rows whose sums are kept apart
    std::size_t scratch_bytes() const { return 4 * (rows + kTile) * sizeof(T); }
};

// quantizers/codebook/update.py, `_gram`.
template <class T>
struct Gram {
    const std::uint8_t* codes;  // (columns, rows)
    const T *H, *scale;         // (columns, columns), (rows)
    std::size_t columns, rows, group_rows, K;
    T* N;  // (row blocks, K, K)

    static constexpr std::size_t kUnit = 16;
    std::size_t scratch_bytes() const { return K * columns * sizeof(T); }
};

// quantizers/codebook/factors.py, `step_coefficients`: `solved` is the real solution rounded.
template <class T>
struct Coefficients {
    const T *N, *g, *u, *solved, *basis;  // (tables, K, K), (tables, K), (tables, R) twice, (R, K)
    std::size_t K, R;
    int shift, passes;
    T low, high, largest;  // limits of centroids; of |coefficients|
    T* better;             // (tables, R) the result

    static constexpr std::size_t kUnit = 64;
    std::size_t scratch_bytes() const { return 0; }
};

// A block of pairs of columns to be given codes, (columns, rows) column first; the definitions are quantizers/pairs/walk.py and descent.py.
template <class T>
struct PairColumns {
    bool descent;
    std::size_t columns, rows, group_rows, K, alone;  // alone: the pair whose second column does not count, if any; in descent it is missing
    T* block;             // the weights as corrected so far; in descent G, which is kept up to date
    const T* matrix;      // (columns, columns) of U, or of H
    const T* tables;      // (row groups, 2, K), K at most 256
    const T* row_scale;   // (rows)
    std::uint8_t* codes;  // (pairs, rows)
    T* changes;           // (columns, rows) a, or the change of the value

    static constexpr std::size_t kUnit = 64;  // rows calculated together
    std::size_t scratch_bytes() const { return 2 * columns * kUnit * sizeof(T); }
};

// Points of a plane, each added to the sums of its nearest centroid; the definition is quantizers/pairs/clustering.py, `_sums_by_cluster`.
template <class T>
struct PairClusters {
    const T *x, *p, *centroids;  // (groups, n, 2), (groups, n, 2), (groups, k, 2)
    std::size_t n, k;            // k at most 256
    T* sums;                     // (groups, k, 3, 2) of p, p (x - c) and p (x - c)^2

    static constexpr std::size_t kUnit = 1;
    std::size_t scratch_bytes() const { return 0; }
};

}  // namespace rwkvquant
