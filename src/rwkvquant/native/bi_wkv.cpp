// Bi-WKV of Vision-RWKV for some channels of one image; the definition is `bi_wkv` of kernels/bi_wkv.py, with the same order of sums.
//
// The scan from the last token to the first one writes its sums to `scratch`; the scan from the first one on reads them and writes y.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr float kEps = 1e-6f;

// sum of e^p v = e^o a, sum of e^p = e^o b; o is the largest p, minus infinity for no token.
struct Sums {
    Vec o, a, b;
};

RWKVQUANT_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// The sums with one more token. The larger of both exponents is the new o, so one of the two exponentials is 1.
RWKVQUANT_INLINE Sums with(const Sums& sums, Vec p, Vec v) {
    const auto keeps = sums.o > p;
    const Vec o = keeps ? sums.o : p;
    const Vec small = exponential((keeps ? p : sums.o) - o), one = spread(1.0f);
    const Vec e1 = keeps ? one : small, e2 = keeps ? small : one;
    return {o, sums.a * e1 + e2 * v, sums.b * e1 + e2};
}

}  // namespace

RWKVQUANT_FLATTEN void bi_wkv(const float* w, const float* u, const float* k, const float* v, std::size_t tokens, std::size_t stride,
                              std::size_t begin, std::size_t end, float* scratch, float* y) {
    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) {
        const Vec decay = load(w + c, lanes), bonus = load(u + c, lanes);
        const Sums nothing = {spread(-__builtin_inff()), Vec{}, Vec{}};

        Sums after = nothing;
        for (std::size_t t = tokens; t-- > 0;) {
            float* const place = scratch + 3 * kLanes * t;
            store(place, after.o), store(place + kLanes, after.a), store(place + 2 * kLanes, after.b);
            after = with({after.o - decay, after.a, after.b}, load(k + t * stride + c, lanes), load(v + t * stride + c, lanes));
        }

        Sums before = nothing;
        for (std::size_t t = 0; t < tokens; ++t) {
            const float* const place = scratch + 3 * kLanes * t;
            const Sums next = {load(place), load(place + kLanes), load(place + 2 * kLanes)};
            const Vec key = load(k + t * stride + c, lanes), value = load(v + t * stride + c, lanes);
            const Vec p = bonus + key, m = larger(larger(before.o, next.o), p);
            const Vec e1 = exponential(before.o - m), e2 = exponential(next.o - m), e3 = exponential(p - m);
            store(y + t * stride + c, (before.a * e1 + next.a * e2 + e3 * value) / (before.b * e1 + next.b * e2 + e3 + kEps), lanes);
            before = with({before.o - decay, before.a, before.b}, key, value);
        }
    });
}

}  // namespace rwkvquant::RWKVQUANT_BODY
