// The table of a body: all functions that other files call.
#include "operations.h"

#define RWKVQUANT_OF_PRODUCTS(each) each(dot_bytes)
#define RWKVQUANT_OF_VECTORS(each)                                                                                              \
    each(read_memory) each(quantize_activations) each(layer_norm) each(token_shift) each(apply) each(add) each(multiply)       \
    each(keys7) each(wkv7) each(bonus7) each(exponentials) each(decay6) each(wkv6) each(bi_wkv) each(pack_state)               \
    each(unpack_state) each(pack_rotated) each(unpack_rotated) each(seed_of_rows) each(hadamard) each(exact_kmeans)                                                                       \
    each(round_columns_f32) each(round_columns_f64) each(round_scaled_columns_f32) each(round_scaled_columns_f64)              \
    each(code_gram_f32) each(code_gram_f64) each(step_coefficients_f32) each(step_coefficients_f64) \
    each(round_pairs_f32) each(round_pairs_f64) each(sum_clusters_f32) each(sum_clusters_f64)

// A body with products only takes the other functions from the plain body. On ARM all do: NEON is part of that architecture, and what a
// compiler makes of the plain body's vectors is as fast.
#if defined(RWKVQUANT_PRODUCTS_ONLY)
#define RWKVQUANT_VECTORS plain
#else
#define RWKVQUANT_VECTORS RWKVQUANT_BODY
#endif

namespace rwkvquant {
namespace {

template <typename Pointer>
struct Pointee;
template <typename Declared>
struct Pointee<Declared*> {
    using type = Declared;
};

}  // namespace

#define RWKVQUANT_DECLARED(name) Pointee<decltype(Operations::name)>::type name;
#define RWKVQUANT_NAMED(name) RWKVQUANT_VECTORS::name,

namespace RWKVQUANT_VECTORS {
RWKVQUANT_OF_VECTORS(RWKVQUANT_DECLARED)
}

namespace RWKVQUANT_BODY {

RWKVQUANT_OF_PRODUCTS(RWKVQUANT_DECLARED)
extern const Codec* const codecs[];

#define RWKVQUANT_TEXT(word) #word
#define RWKVQUANT_NAME(body) RWKVQUANT_TEXT(body)

extern const Operations table;
constinit const Operations table = {RWKVQUANT_NAME(RWKVQUANT_BODY), codecs, dot_bytes, RWKVQUANT_OF_VECTORS(RWKVQUANT_NAMED)};

}  // namespace RWKVQUANT_BODY
}  // namespace rwkvquant
