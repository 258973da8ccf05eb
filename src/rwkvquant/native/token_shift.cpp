// Mixes an input with the token before it; the definition is kernels/token_shift.py.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {

RWKVQUANT_FLATTEN void token_shift(const float* x, const float* previous, const float* mu, const float* lean, std::size_t begin,
                                   std::size_t end, float* y) {
    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) {
        const Vec now = load(x + c, lanes);
        Vec weight = load(mu + c, lanes);
        if (lean != nullptr) weight += load(lean + c, lanes);
        store(y + c, now + (load(previous + c, lanes) - now) * weight, lanes);
    });
}

}  // namespace rwkvquant::RWKVQUANT_BODY
