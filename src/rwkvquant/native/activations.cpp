// float32 activations -> int8 in groups of 64; the definition is kernels/activations.py.
//
// x (count, padded) -> q (count, padded) and scale = absmax / 127 (count, groups). For the products also minus_sum (count, 2 groups): minus
// the sum of q over each group, and over its second half. Halves round to even.
#include "operations.h"
#include "tiles.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

typedef std::int8_t ByteVec __attribute__((vector_size(kLanes)));

constexpr std::int32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
constexpr std::size_t kVectors = kActivationGroup / kLanes;

RWKVQUANT_INLINE IntVec larger(IntVec a, IntVec b) { return a > b ? a : b; }

// All lanes, combined by `combine`.
template <typename Combine>
RWKVQUANT_INLINE std::int32_t over_lanes(IntVec values, Combine combine) {
    typedef std::int32_t Eight __attribute__((vector_size(32)));
    typedef std::int32_t Four __attribute__((vector_size(16)));
    Eight halves[2];
    std::memcpy(halves, &values, sizeof halves);
    const Eight eight = combine(halves[0], halves[1]);
    Four quarters[2];
    std::memcpy(quarters, &eight, sizeof quarters);
    const Four four = combine(quarters[0], quarters[1]);
    const Four two = combine(four, Four{four[2], four[3], four[0], four[1]});
    return combine(two, Four{two[1], two[0], two[3], two[2]})[0];
}

// The largest |x|. The bits of magnitudes, compared as whole numbers, have the right order, with infinities and NaN above all others: one
// of those becomes the scale.
RWKVQUANT_INLINE float largest(const Vec* x) {
    IntVec most = (IntVec)x[0] & kMagnitude;
    for (std::size_t i = 1; i < kVectors; ++i) most = larger(most, (IntVec)x[i] & kMagnitude);
    const std::int32_t bits = over_lanes(most, [](auto a, auto b) { return a > b ? a : b; });
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// x / step, rounded, in -127..127. What is not finite becomes 0, and so does 0 / 0 in a group of zeros. Where step is subnormal, x / step
// may be up to 190 before it is clamped.
RWKVQUANT_INLINE IntVec in_steps(Vec x, float step) {
    Vec steps = x / spread(step);
    steps = ((IntVec)steps & kMagnitude) < kInfinity ? steps : Vec{};
    steps = steps > 127.0f ? spread(127.0f) : steps;
    steps = steps < -127.0f ? spread(-127.0f) : steps;
    const Vec round = spread(0x1.8p23f);  // a number added to this keeps no fraction
    return __builtin_convertvector((steps + round) - round, IntVec);
}

}  // namespace

RWKVQUANT_FLATTEN void quantize_activations(const float* x, std::size_t count, std::size_t cols, std::int8_t* q, float* scale,
                                            std::int32_t* minus_sum) {
    const std::size_t groups = count * ((cols + kActivationGroup - 1) / kActivationGroup);
    for (std::size_t g = 0; g < groups; ++g, x += kActivationGroup, q += kActivationGroup) {
        Vec values[kVectors];
        for (std::size_t i = 0; i < kVectors; ++i) values[i] = load(x + i * kLanes);
        scale[g] = largest(values) / 127.0f;
        IntVec whole[kVectors];
        for (std::size_t i = 0; i < kVectors; ++i) {
            whole[i] = in_steps(values[i], scale[g]);
            const ByteVec bytes = __builtin_convertvector(whole[i], ByteVec);
            std::memcpy(q + i * kLanes, &bytes, sizeof bytes);
        }
        std::int32_t halves[2];
        for (std::size_t half = 0; half < 2; ++half) {
            halves[half] = over_lanes(whole[2 * half] + whole[2 * half + 1], [](auto a, auto b) { return a + b; });
        }
        minus_sum[2 * g] = -(halves[0] + halves[1]);
        minus_sum[2 * g + 1] = -halves[1];
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
