// Functions of each element, and sums and products of two vectors; the definitions are in kernels/functions.py.
#include "operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

template <typename OfVector>
RWKVQUANT_INLINE void in_place(float* x, std::size_t begin, std::size_t end, OfVector function) {
    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) { store(x + c, function(load(x + c, lanes)), lanes); });
}

}  // namespace

RWKVQUANT_FLATTEN void apply(Function function, float* x, std::size_t begin, std::size_t end) {
    switch (function) {
        case Function::kSigmoid: return in_place(x, begin, end, [](Vec v) { return sigmoid(v); });
        case Function::kTanh: return in_place(x, begin, end, [](Vec v) { return tangent(v); });
        case Function::kSilu: return in_place(x, begin, end, [](Vec v) { return v * sigmoid(v); });
        case Function::kSquaredRelu:
            return in_place(x, begin, end, [](Vec v) {
                const Vec positive = v < 0.0f ? Vec{} : v;
                return positive * positive;
            });
    }
}

RWKVQUANT_FLATTEN void add(float* x, const float* y, std::size_t begin, std::size_t end) {
    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) { store(x + c, load(x + c, lanes) + load(y + c, lanes), lanes); });
}

RWKVQUANT_FLATTEN void multiply(float* x, const float* y, std::size_t begin, std::size_t end) {
    each_vector(begin, end, [&](std::size_t c, std::size_t lanes) { store(x + c, load(x + c, lanes) * load(y + c, lanes), lanes); });
}

RWKVQUANT_FLATTEN void exponentials(const float* x, float top, float temperature, std::size_t size, float* y) {
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
        store(y + c, exponential((load(x + c, lanes) - top) / temperature), lanes);
    });
}

RWKVQUANT_FLATTEN void decay6(const float* w0, const float* d, std::size_t size, float* w) {
    each_vector(0, size, [&](std::size_t c, std::size_t lanes) {
        const Vec exponent = load(w0 + c, lanes) + load(d + c, lanes);
        store(w + c, exponential(-exponential(exponent > 80.0f ? spread(80.0f) : exponent)), lanes);
    });
}

}  // namespace rwkvquant::RWKVQUANT_BODY
