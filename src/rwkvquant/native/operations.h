// A body: all functions of the native module that are compiled once for each instruction set, in one table. bodies.cpp lists the bodies
// and chooses one at load; operations.cpp, compiled with each of them, fills its table.
//
// The sources are the same for all bodies. CMakeLists.txt names the body (RWKVQUANT_BODY, which is also its namespace), its header of
// lanes (RWKVQUANT_LANES) and the compiler's flags.
//
// A file compiled with such flags must not emit inline functions that other files share. The linker keeps one copy of each; if it kept the
// AVX-512 copy, an older CPU would stop at an illegal instruction in code that looks harmless. So the bodies use only types and constants
// of the C++ library, memory comes from the caller, and what the files of a body share is `static` or in the body's namespace.
// tests/native/test_bodies.py looks into the compiled files.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec.h"
#include "steps.h"
#include "workshop.h"

namespace rwkvquant {

struct Operations {
    const char* isa;

    // The codecs, in the same order in every body; null after the last.
    const Codec* const* codecs;

    // Measures the speed of arithmetic: dot_rate.cpp.
    std::uint32_t (*dot_bytes)(const std::uint8_t* a, const std::int8_t* q, std::size_t rounds);
    // Measures the bandwidth of memory: read_memory.cpp.
    std::uint64_t (*read_memory)(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead);

    // x (count, padded) with zeros in the padding -> q (count, padded), scale (count, groups), minus_sum (count, 2 groups)
    void (*quantize_activations)(const float* x, std::size_t count, std::size_t cols, std::int8_t* q, float* scale,
                                 std::int32_t* minus_sum);

    // The operations of a step besides products. All arrays are float32 at any address. A range begin..end of columns is one thread's
    // share; what is outside of it is read but not written.

    // y[begin..end] = (x - mean) / sqrt(variance + eps) * weight + bias; mean and variance over all cols
    void (*layer_norm)(const float* x, const float* weight, const float* bias, std::size_t cols, float eps, std::size_t begin,
                       std::size_t end, float* y);
    // y = x + (previous - x) * (mu + lean); lean may be null
    void (*token_shift)(const float* x, const float* previous, const float* mu, const float* lean, std::size_t begin, std::size_t end,
                        float* y);
    void (*apply)(Function function, float* x, std::size_t begin, std::size_t end);
    void (*add)(float* x, const float* y, std::size_t begin, std::size_t end);       // x += y
    void (*multiply)(float* x, const float* y, std::size_t begin, std::size_t end);  // x *= y
    void (*keys7)(const Keys7& from, const Head7& to, std::size_t size);
    // S_to = S (diag(w) - kappa^T a_kappa) + v^T k, o = S_to r; S (N, N) [value, key], may be S_to
    void (*wkv7)(const float* S, float* S_to, const float* r, const Head7& head, std::size_t size, float* o);
    // y = (y + sum(r * k * r_k) v) * g
    void (*bonus7)(const float* r, const float* k, const float* r_k, const float* v, const float* g, std::size_t size, float* y);
    // y = exp((x - top) / temperature) of `size` elements; no x is above top
    void (*exponentials)(const float* x, float top, float temperature, std::size_t size, float* y);
    // w = exp(-exp(min(w0 + d, 80)))
    void (*decay6)(const float* w0, const float* d, std::size_t size, float* w);
    // o = (S + v^T (u * k)) r, S_to = S diag(w) + v^T k; S may be S_to
    void (*wkv6)(const float* S, float* S_to, const float* r, const float* w, const float* k, const float* v, const float* u,
                 std::size_t size, float* o);
    // Bi-WKV of one image, k, v and y (tokens, stride), for channels begin..end; `scratch` has 48 floats for each token
    void (*bi_wkv)(const float* w, const float* u, const float* k, const float* v, std::size_t tokens, std::size_t stride,
                   std::size_t begin, std::size_t end, float* scratch, float* y);
    // A head's matrix S (N, N) in 12 bits a value, N (3 N / 2 + 4) bytes, and back: state_rows.cpp. N is even.
    void (*pack_state)(const float* S, std::size_t size, std::uint8_t* rows);
    void (*unpack_state)(const std::uint8_t* rows, std::size_t size, float* S);
    // The same in 8 bits a value, N (N + 4) bytes, rounded by random numbers of a seed; S becomes S H. And the seed for the token after
    // rows: state_rotated.cpp. N is even.
    void (*pack_rotated)(float* S, std::size_t size, std::uint32_t seed, std::uint8_t* rows);
    void (*unpack_rotated)(const std::uint8_t* rows, std::size_t size, float* S);
    std::uint32_t (*seed_of_rows)(const std::uint8_t* rows, std::size_t size);
    // y = T x of one vector, the randomised Hadamard transform; signs (cols / 8, rounded up) are the bits of D: hadamard.cpp. y may be x.
    void (*hadamard)(const float* x, const std::uint8_t* signs, std::size_t cols, float* y);

    // The loops of quantising: workshop.h. `scratch` has the number of bytes that `scratch_bytes` says there.
    void (*exact_kmeans)(const KMeans& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_columns_f32)(const Columns<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_columns_f64)(const Columns<double>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_scaled_columns_f32)(const ScaledColumns<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_scaled_columns_f64)(const ScaledColumns<double>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*code_gram_f32)(const Gram<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*code_gram_f64)(const Gram<double>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*step_coefficients_f32)(const Coefficients<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*step_coefficients_f64)(const Coefficients<double>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_pairs_f32)(const PairColumns<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*round_pairs_f64)(const PairColumns<double>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*sum_clusters_f32)(const PairClusters<float>& task, std::size_t begin, std::size_t end, void* scratch);
    void (*sum_clusters_f64)(const PairClusters<double>& task, std::size_t begin, std::size_t end, void* scratch);
};

}  // namespace rwkvquant
