// RWKV-7's recurrence for one head and one token, and the steps right before and after it; the definition is kernels/wkv7.py.
//
//     S' = S (diag(w) - kappa^T (a * kappa)) + v^T k        o = S' r        S (N, N), [value, key]
//
// Every row of S is used with the same vectors, so these stay in registers. A row is read twice, because what is removed from it is a sum
// over all of it. Sums over the key go along the lanes, and those of four rows are made together.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kRows = 4;  // whose sums are made together
constexpr float kDecayRate = 0.60653065971263342f;  // exp(-0.5)

// Head sizes of whole vectors, `vectors` of them.
template <std::size_t vectors>
void rows_in_registers(const float* S, float* S_to, const float* r, const Head7& head, float* o) {
    constexpr std::size_t size = vectors * kLanes;
    Vec receptance[vectors], decay[vectors], key[vectors], kappa[vectors], a_kappa[vectors];
    for (std::size_t i = 0; i < vectors; ++i) {
        const std::size_t at = i * kLanes;
        receptance[i] = load(r + at);
        decay[i] = load(head.w + at);
        key[i] = load(head.k + at);
        kappa[i] = load(head.kappa + at);
        a_kappa[i] = load(head.a_kappa + at);
    }
    for (std::size_t row = 0; row < size; row += kRows, S += kRows * size, S_to += kRows * size) {
        Vec removed[kRows] = {}, out[kRows] = {};
        for (std::size_t j = 0; j < kRows; ++j) {
            for (std::size_t i = 0; i < vectors; ++i) removed[j] += load(S + j * size + i * kLanes) * kappa[i];
        }
        const Four held = sums(removed);
        for (std::size_t j = 0; j < kRows; ++j) {
            const Vec gone = spread(held[j]), value = spread(head.v[row + j]);
            for (std::size_t i = 0; i < vectors; ++i) {
                const Vec state = (load(S + j * size + i * kLanes) * decay[i] - gone * a_kappa[i]) + value * key[i];
                out[j] += state * receptance[i];
                store(S_to + j * size + i * kLanes, state);
            }
        }
        const Four result = sums(out);
        std::memcpy(o + row, &result, sizeof result);
    }
}

RWKVQUANT_FLATTEN void rows_of_any_size(const float* S, float* S_to, const float* r, const Head7& head, std::size_t size, float* o) {
    for (std::size_t row = 0; row < size; ++row, S += size, S_to += size) {
        Vec removed = {}, out = {};
        each_vector(0, size, [&](std::size_t c, std::size_t lanes) { removed += load(S + c, lanes) * load(head.kappa + c, lanes); });
        const float held = sum(removed), value = head.v[row];
        each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
            const Vec kept = load(S + c, lanes) * load(head.w + c, lanes) - held * load(head.a_kappa + c, lanes);
            const Vec state = kept + value * load(head.k + c, lanes);
            out += state * load(r + c, lanes);
            store(S_to + c, state, lanes);
        });
        o[row] = sum(out);
    }
}

}  // namespace

RWKVQUANT_FLATTEN void keys7(const Keys7& from, const Head7& to, std::size_t size) {
    Vec squares = {};
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
        const Vec k = load(from.k + c, lanes), a = sigmoid(load(from.a0 + c, lanes) + load(from.a + c, lanes));
        const Vec w = exponential(-kDecayRate * sigmoid(load(from.w0 + c, lanes) + load(from.w + c, lanes)));
        const Vec kappa = k * load(from.k_k + c, lanes);
        squares += kappa * kappa;
        store(to.w + c, w, lanes);
        store(to.kappa + c, kappa, lanes);
        store(to.a_kappa + c, a, lanes);
        store(to.k + c, k * (1.0f + (a - 1.0f) * load(from.k_a + c, lanes)), lanes);

        const Vec v = load(from.v + c, lanes);
        if (from.v_gate == nullptr) {
            store(from.v_first + c, v, lanes);
            store(to.v + c, v, lanes);
        } else {
            const Vec gate = sigmoid(load(from.v0 + c, lanes) + load(from.v_gate + c, lanes));
            store(to.v + c, v + (load(from.v_first + c, lanes) - v) * gate, lanes);
        }
    });
    const float length = __builtin_sqrtf(sum(squares));
    const float divisor = length < 1e-12f ? 1e-12f : length;
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
        const Vec kappa = load(to.kappa + c, lanes) / divisor;
        store(to.kappa + c, kappa, lanes);
        store(to.a_kappa + c, load(to.a_kappa + c, lanes) * kappa, lanes);
    });
}

void wkv7(const float* S, float* S_to, const float* r, const Head7& head, std::size_t size, float* o) {
    switch (size) {
        case 64: return rows_in_registers<4>(S, S_to, r, head, o);
        case 32: return rows_in_registers<2>(S, S_to, r, head, o);
        default: return rows_of_any_size(S, S_to, r, head, size, o);
    }
}

RWKVQUANT_FLATTEN void bonus7(const float* r, const float* k, const float* r_k, const float* v, const float* g, std::size_t size,
                              float* y) {
    Vec products = {};
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) { products += load(r + c, lanes) * load(k + c, lanes) * load(r_k + c,
                                                                                                                            lanes); });
    const float weight = sum(products);
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
        store(y + c, (load(y + c, lanes) + weight * load(v + c, lanes)) * load(g + c, lanes), lanes);
    });
}

}  // namespace rwkvquant::RWKVQUANT_BODY
