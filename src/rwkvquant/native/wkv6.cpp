// RWKV-6's recurrence for one head and one token; the definition is kernels/wkv6.py.
//
//     o = (S + v^T (u * k)) r = S r + v (sum u k r)        S' = S diag(w) + v^T k        S (N, N), [value, key]
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kRows = 4;  // whose sums are made together

template <std::size_t vectors>
void rows_in_registers(const float* S, float* S_to, const float* r, const float* w, const float* k, const float* v, float present,
                       float* o) {
    constexpr std::size_t size = vectors * kLanes;
    Vec receptance[vectors], decay[vectors], key[vectors];
    for (std::size_t i = 0; i < vectors; ++i) {
        receptance[i] = load(r + i * kLanes);
        decay[i] = load(w + i * kLanes);
        key[i] = load(k + i * kLanes);
    }
    for (std::size_t row = 0; row < size; row += kRows, S += kRows * size, S_to += kRows * size) {
        Vec out[kRows] = {};
        for (std::size_t j = 0; j < kRows; ++j) {
            for (std::size_t i = 0; i < vectors; ++i) {
                const Vec state = load(S + j * size + i * kLanes);
                out[j] += state * receptance[i];
                store(S_to + j * size + i * kLanes, state * decay[i] + v[row + j] * key[i]);
            }
        }
        Four values;
        std::memcpy(&values, v + row, sizeof values);
        const Four result = sums(out) + values * present;
        std::memcpy(o + row, &result, sizeof result);
    }
}

RWKVQUANT_FLATTEN void rows_of_any_size(const float* S, float* S_to, const float* r, const float* w, const float* k, const float* v,
                                        float present,
                      std::size_t size, float* o) {
    for (std::size_t row = 0; row < size; ++row, S += size, S_to += size) {
        Vec out = {};
        each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
            const Vec state = load(S + c, lanes);
            out += state * load(r + c, lanes);
            store(S_to + c, state * load(w + c, lanes) + v[row] * load(k + c, lanes), lanes);
        });
        o[row] = sum(out) + v[row] * present;
    }
}

}  // namespace

RWKVQUANT_FLATTEN void wkv6(const float* S, float* S_to, const float* r, const float* w, const float* k, const float* v, const float* u,
                            std::size_t size,
          float* o) {
    Vec products = {};
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) { products += load(u + c, lanes) * load(k + c, lanes) * load(r + c,
                                                                                                                            lanes); });
    const float present = sum(products);  // the weight of the current token, which has the bonus u
    switch (size) {
        case 64: return rows_in_registers<4>(S, S_to, r, w, k, v, present, o);
        case 32: return rows_in_registers<2>(S, S_to, r, w, k, v, present, o);
        default: return rows_of_any_size(S, S_to, r, w, k, v, present, size, o);
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
