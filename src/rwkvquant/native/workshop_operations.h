// Loops that quantising, not running, would spend its time in. Definitions in quantizers/, which call these where the module is built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rwkvquant {

// Weighted 1-D k-means by dynamic programming; the definition is quantizers/shared/clustering.py, `_exact`.
struct KMeans {
    const double *x, *p;  // (groups, n) points, ascending in each group, and their weights, none negative, not all 0
    std::size_t groups, n;
    int k;                // at most 16
    bool limited;         // centroids are whole numbers in low..high
    double low, high;
    double* centroids;    // (groups, k)
};

// A block of columns to be rounded, (columns, rows) column first; the definitions are quantizers/uniform/gptq.py, codebook_walk.py, descent.py.
template <class T>
struct Columns {
    bool descent;
    std::size_t columns, rows, tables;
    int bits;
    T* block;                  // the weights as corrected so far; in descent G, which is kept up to date
    const T* matrix;           // (columns, columns) of U, or of H
    const std::int32_t* table; // (columns) which group or column block each belongs to
    const float *scale, *zero; // (tables, rows) of grids; zero only for error feedback
    const T* centroids;        // (tables, K, rows) of codebooks, or null
    const std::uint8_t* names; // (tables, K, rows) their codes; only for error feedback
    const T* row_scale;        // (rows)
    std::uint8_t* codes;       // (columns, rows)
    T* changes;                // (columns, rows) error / U_qq, or the change of the value
};

// quantizers/codebook/update.py, `_gram`.
template <class T>
struct Gram {
    const std::uint8_t* codes;  // (columns, rows)
    const T *H, *scale;         // (columns, columns), (rows)
    std::size_t columns, rows, group_rows, K;
    T* N;  // (row blocks, K, K)
};

// quantizers/codebook/factors.py, `step_coefficients`: `solved` is the real solution rounded.
template <class T>
struct Coefficients {
    const T *N, *g, *u, *solved, *basis;  // (tables, K, K), (tables, K), (tables, R) twice, (R, K)
    std::size_t K, R;
    int shift, passes;
    T low, high, largest;  // of centroids; of coefficients
    T* found;              // (tables, R)
};

}  // namespace rwkvquant

#define RWKVQUANT_WORKSHOP_OPERATIONS(body)                                                 \
    namespace rwkvquant::body {                                                             \
    void exact_kmeans(const KMeans& task);                                                  \
    void round_columns(const Columns<float>& task, std::size_t begin, std::size_t end);     \
    void round_columns(const Columns<double>& task, std::size_t begin, std::size_t end);    \
    void code_gram(const Gram<float>& task, std::size_t begin, std::size_t end);            \
    void code_gram(const Gram<double>& task, std::size_t begin, std::size_t end);           \
    void step_coefficients(const Coefficients<float>& task, std::size_t begin, std::size_t end);  \
    void step_coefficients(const Coefficients<double>& task, std::size_t begin, std::size_t end); \
    }

RWKVQUANT_WORKSHOP_OPERATIONS(plain)
#if defined(RWKVQUANT_X86)
RWKVQUANT_WORKSHOP_OPERATIONS(avx2)
RWKVQUANT_WORKSHOP_OPERATIONS(avx512)
#endif
