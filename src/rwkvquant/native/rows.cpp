// One row of a table that is read row by row: uniform{1..8}.rows and dense.f16; the definition is kernels/tiles.py, "the rows layout".
#include "step_operations.h"
#include "vectors.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kPlanes[9][3] = {{}, {1}, {2}, {2, 1}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {4, 4}};
constexpr std::size_t kRowMultiple = 64;

// IEEE 754 binary16, exactly, at any address.
RWKVQUANT_INLINE float half_at(const std::uint8_t* from, std::size_t index) {
    const std::uint32_t half = static_cast<std::uint32_t>(from[2 * index] | from[2 * index + 1] << 8);
    const std::uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    const std::uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace

void decode_row(const PackedRow& row, std::size_t begin, std::size_t end, float* x) {
    const std::size_t padded = (row.cols + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
    const float row_scale = row.row_scale != nullptr ? half_at(row.row_scale, 0) : 1.0f;
    for (std::size_t c = begin; c < end;) {
        const std::size_t group = c / row.group_size;
        const std::size_t stop = (group + 1) * row.group_size < end ? (group + 1) * row.group_size : end;
        const float scale = row.scale_bits == 8 ? row_scale * static_cast<float>(row.scales[group]) : half_at(row.scales, group);
        const int zero = row.zeros != nullptr ? row.zeros[group] : 1 << (row.bits - 1);
        for (; c < stop; ++c) {
            const std::uint8_t* plane = row.codes;
            int code = 0, low_bit = 0;
            for (const int width : kPlanes[row.bits]) {
                if (width == 0) break;
                const std::size_t per = 8 / static_cast<std::size_t>(width);
                code |= (plane[c / per] >> (width * static_cast<int>(c % per)) & ((1 << width) - 1)) << low_bit;
                plane += padded / per;
                low_bit += width;
            }
            x[c] = scale * static_cast<float>(code - zero);
        }
    }
}

void decode_halves(const std::uint8_t* from, std::size_t begin, std::size_t end, float* x) {
    for (std::size_t c = begin; c < end; ++c) x[c] = half_at(from, c);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
