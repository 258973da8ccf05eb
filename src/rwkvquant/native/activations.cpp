// float32 activations -> int8 in groups of 64; the definition is kernels/activations.py.
//
// x (count, padded) -> q (count, padded), scale = absmax / 127 and sum of q (count, groups). Halves round to even.
#include "lanes.h"
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::uint32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;

// As whole numbers, magnitudes compare as they should, infinities and NaN above all others: one of those becomes the scale.
float largest(const float* x) {
    std::uint32_t most = 0;
    for (std::size_t c = 0; c < kActivationGroup; ++c) {
        const std::uint32_t magnitude = load<std::uint32_t>(x + c) & kMagnitude;
        most = magnitude > most ? magnitude : most;
    }
    return load<float>(&most);
}

}  // namespace

void quantize_activations(const float* x, std::size_t count, std::size_t cols, std::int8_t* q, float* scale, std::int32_t* sum) {
    const std::size_t groups = count * ceil_divide(cols, kActivationGroup);
    for (std::size_t g = 0; g < groups; ++g, x += kActivationGroup, q += kActivationGroup) {
        const float step = largest(x) / 127.0f;
        constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it keeps no fraction
        std::int32_t total = 0;
        for (std::size_t c = 0; c < kActivationGroup; ++c) {
            float steps = x[c] / step;  // 0 / 0 in a group of zeros; up to 190 where step is subnormal
            const bool finite = (load<std::uint32_t>(&steps) & kMagnitude) < kInfinity;
            steps = finite ? steps : 0.0f;
            steps = steps > 127.0f ? 127.0f : steps;
            steps = steps < -127.0f ? -127.0f : steps;
            const auto whole = static_cast<std::int32_t>((steps + kRound) - kRound);
            q[c] = static_cast<std::int8_t>(whole);
            total += whole;
        }
        scale[g] = step;
        sum[g] = total;
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
