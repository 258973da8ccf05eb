// Layer norm. With the columns of a head and another eps it is the head norm. The definition is in kernels/functions.py.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {

RWKVQUANT_FLATTEN void layer_norm(const float* x, const float* weight, const float* bias, std::size_t cols, float eps,
                                  std::size_t begin, std::size_t end, float* y) {
    Vec total = {};
    each_vector(0, cols, [&](std::size_t c, std::size_t lanes) { total += load(x + c, lanes); });
    const float mean = sum(total) / static_cast<float>(cols);

    Vec squares = {};
    each_vector(0, cols, [&](std::size_t c, std::size_t lanes) {
        Vec centred = load(x + c, lanes) - mean;
        for (std::size_t lane = lanes; lane < kLanes; ++lane) centred[lane] = 0;
        squares += centred * centred;
    });
    const float deviation = __builtin_sqrtf(sum(squares) / static_cast<float>(cols) + eps);

    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) {
        store(y + c, (load(x + c, lanes) - mean) / deviation * load(weight + c, lanes) + load(bias + c, lanes), lanes);
    });
}

}  // namespace rwkvquant::RWKVQUANT_BODY
