// Directions and magnitudes: a code of 16, 17, 18 or 20 bits is the weights of eight neighbouring columns. The definition, and the places
// of codes, are kernels/gemv_polar.py.
//
// Bits per weight: 2 to 2.5, and 16 / cols for row_scale. The directions, 8 bytes each, are one array for all matrices: 128 KiB for 14 bits.
//
// One vector:  isum[r]  = sum over 64 columns of number * q              exact, in integers; number = (direction * level + 2^14) >> 15
//              y[r]    += float(isum[r]) * xscale                        tiles from left to right
//              y[r]    *= row_scale[r]
#include "polar_steps.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kVectors8 = 8;                             // of a row in a tile
constexpr std::size_t kTileCodes = kTileRows * kVectors8;
constexpr std::size_t kTileBytes = 2 * kTileCodes;               // of `codes`
constexpr std::size_t high_bytes(int extra) { return kTileCodes * static_cast<std::size_t>(extra) / 8; }

void describe(Description& given, Matrix& matrix) {
    Polar own = {};
    const std::size_t bits = given.one_of("bits", {16, 17, 18, 20}), direction_bits = given.number("direction_bits", 12, 16);
    given.require(direction_bits < bits && bits - direction_bits <= 4, "direction_bits must be 1 to 4 less than bits");
    own.cols = matrix.cols, own.bits = static_cast<int>(bits), own.direction_bits = static_cast<int>(direction_bits);
    const std::size_t tiles = ceil_divide(matrix.rows, kTileRows) * ceil_divide(matrix.cols, 64);
    own.codes = given.array("codes", Type::kUint16, tiles * kTileCodes);
    if (bits > 16) own.high = given.array("high", Type::kUint8, tiles * high_bytes(own.bits - 16));
    own.directions = given.array("directions", Type::kInt8, std::size_t{8} << direction_bits);
    own.levels = given.array("levels", Type::kUint16, std::size_t{1} << (bits - direction_bits));
    own.row_scale = given.array("row_scale", Type::kFloat16, ceil_divide(matrix.rows, kTileRows) * kTileRows);
    keep(own, matrix);
}

// All steps of tile `tile`, counted through the matrix.
template <int extra>
RWKVQUANT_INLINE void decode_tile(const Polar& matrix, std::size_t tile, Bytes* step) {
    const std::uint8_t* codes = matrix.codes + tile * kTileBytes;
    const std::uint8_t* high = extra == 0 ? nullptr : matrix.high + tile * high_bytes(extra);
    for (std::size_t v = 0; v < kVectors8; ++v) {
        polar_steps<extra>(matrix, codes + 2 * kTileRows * v, extra == 0 ? nullptr : high + high_bytes(extra) / kVectors8 * v, step + 2 * v);
    }
}

template <int extra>
void one_vector(const Polar& matrix, const Activations& activations, float* out, std::size_t row_begin, std::size_t row_end) {
    const std::size_t tiles = ceil_divide(matrix.cols, 64);
    const Ahead ahead = activations.ahead;
    std::size_t tile = row_begin / kTileRows * tiles;
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        Floats y = splat(0.0f);
        for (std::size_t t = 0; t < tiles; ++t, ++tile) {
            prefetch<kTileBytes>(matrix.codes + tile * kTileBytes, ahead);
            const std::int8_t* x = activations.q + kActivationGroup * t;
            Bytes step[kGroupSteps];
            decode_tile<extra>(matrix, tile, step);
            Ints sums[2] = {multiply_zeros(splat(kCentroidZero), activations.minus_sum[2 * t]), splat(0)};
            unroll<kGroupSteps>([&](auto index) RWKVQUANT_ALWAYS {
                constexpr int j = decltype(index)::v;
                sums[j % 2] = dot<7>(sums[j % 2], step[j], x + 4 * j);
            });
            y = add(y, multiply(to_floats(add(sums[0], sums[1])), splat(activations.scale[t])));
        }
        store(out + row, multiply(y, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
    }
}

template <int extra>
void decode(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded) {
    const Polar& matrix = *static_cast<const Polar*>(source);
    std::size_t tile = block * ceil_divide(matrix.cols, 64) + group;
    for (const Decoded* end = decoded + count; decoded != end; ++decoded, ++tile) {
        decode_tile<extra>(matrix, tile, decoded->step);
        decoded->pieces = 1;
        decoded->piece[0] = {kGroupSteps, splat(1.0f), splat(kCentroidZero)};
    }
}

template <int extra>
void with_extra(const Polar& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                std::size_t row_end) {
    if constexpr (kOneVectorLoop) {
        if (is_one_int8_vector(activations)) return one_vector<extra>(matrix, activations, out, row_begin, row_end);
    }
    const Decoder decoder = {decode<extra>, &matrix, matrix.cols, matrix.codes, matrix.row_scale, 7, true, kTileBytes,
                             ceil_divide(matrix.cols, 64) * kTileBytes};
    product_decoded(decoder, activations, out, out_stride, row_begin, row_end);
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    const Polar own = kept<Polar>(matrix);
    const auto chosen = own.bits == 16 ? with_extra<0> : own.bits == 17 ? with_extra<1> : own.bits == 18 ? with_extra<2> : with_extra<4>;
    chosen(own, activations, out, out_stride, row_begin, row_end);
}

}  // namespace

extern const Codec kPolar;
constinit const Codec kPolar = {"polar", describe, product, nullptr, false};

}  // namespace rwkvquant::RWKVQUANT_BODY
