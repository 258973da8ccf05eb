// What a step does beside matrix products, once for each instruction set like operations.h, and the table that chooses.
//
// The definitions are in kernels/: functions.py, token_shift.py, wkv7.py, wkv6.py. All arrays are float32 at any address. A range
// begin..end of columns is one thread's share; what lies outside of it is read but not written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rwkvquant {

enum class Function { kSigmoid, kTanh, kSilu, kSquaredRelu };

// One head's share of what RWKV-7's projections and LoRA pairs gave, and the layer's vectors beside it; each (N,).
struct Keys7 {
    const float *k, *v, *w, *a, *v_gate;   // products of key, value, w2, a2, v2; v_gate is null in the first layer
    const float *w0, *a0, *v0, *k_k, *k_a;
    float* v_first;                        // written in the first layer, read in the others
};

// What the recurrence takes, each (N,).
struct Head7 {
    float *w, *k, *v, *kappa, *a_kappa;
};

// A row of the embedding (or of an element-wise vector) in a uniform .rows layout: where its codes and scales begin.
struct PackedRow {
    const std::uint8_t *codes, *scales, *row_scale, *zeros;
    int bits, scale_bits;
    std::size_t cols, group_size;
};

}  // namespace rwkvquant

#define RWKVQUANT_STEP_OPERATIONS(body)                                                                                                    \
    namespace rwkvquant::body {                                                                                                            \
    /* y[begin..end] = (x - mean) / sqrt(variance + eps) * weight + bias; mean and variance over all cols */                               \
    void layer_norm(const float* x, const float* weight, const float* bias, std::size_t cols, float eps, std::size_t begin,                \
                    std::size_t end, float* y);                                                                                            \
    /* y = x + (previous - x) * (mu + lean); lean may be null */                                                                           \
    void token_shift(const float* x, const float* previous, const float* mu, const float* lean, std::size_t begin, std::size_t end,        \
                     float* y);                                                                                                            \
    void apply(Function function, float* x, std::size_t begin, std::size_t end);                                                           \
    void add(float* x, const float* y, std::size_t begin, std::size_t end);        /* x += y */                                            \
    void multiply(float* x, const float* y, std::size_t begin, std::size_t end);   /* x *= y */                                            \
    void keys7(const Keys7& from, const Head7& to, std::size_t size);                                                                      \
    /* S_to = S (diag(w) - kappa^T a_kappa) + v^T k, o = S_to r; S (N, N) [value, key], may be S_to */                                     \
    void wkv7(const float* S, float* S_to, const float* r, const Head7& head, std::size_t size, float* o);                                 \
    /* y = (y + sum(r * k * r_k) v) * g */                                                                                                 \
    void bonus7(const float* r, const float* k, const float* r_k, const float* v, const float* g, std::size_t size, float* y);             \
    /* y = exp((x - top) / temperature), of all `size` of them; no x is above top */                                                       \
    void exponentials(const float* x, float top, float temperature, std::size_t size, float* y);                                           \
    /* w = exp(-exp(min(w0 + d, 80))) */                                                                                                   \
    void decay6(const float* w0, const float* d, std::size_t size, float* w);                                                              \
    /* o = (S + v^T (u * k)) r, S_to = S diag(w) + v^T k; S may be S_to */                                                                 \
    void wkv6(const float* S, float* S_to, const float* r, const float* w, const float* k, const float* v, const float* u,                 \
              std::size_t size, float* o);                                                                                                 \
    void decode_row(const PackedRow& row, std::size_t begin, std::size_t end, float* x);                                                   \
    void decode_halves(const std::uint8_t* from, std::size_t begin, std::size_t end, float* x);                                            \
    }

RWKVQUANT_STEP_OPERATIONS(plain)
#if defined(RWKVQUANT_X86)
RWKVQUANT_STEP_OPERATIONS(avx2)
RWKVQUANT_STEP_OPERATIONS(avx512)
#endif

namespace rwkvquant {

struct StepOperations {
    std::string_view isa;
    decltype(&plain::layer_norm) layer_norm;
    decltype(&plain::token_shift) token_shift;
    decltype(&plain::apply) apply;
    decltype(&plain::add) add;
    decltype(&plain::multiply) multiply;
    decltype(&plain::keys7) keys7;
    decltype(&plain::wkv7) wkv7;
    decltype(&plain::bonus7) bonus7;
    decltype(&plain::exponentials) exponentials;
    decltype(&plain::decay6) decay6;
    decltype(&plain::wkv6) wkv6;
    decltype(&plain::decode_row) decode_row;
    decltype(&plain::decode_halves) decode_halves;
};

// Those of the instruction set that dispatch.h has chosen.
const StepOperations& step_operations();

}  // namespace rwkvquant
