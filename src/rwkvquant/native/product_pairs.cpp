// Two-dimensional codebooks: a code of 4 to 8 bits is the weights of two neighbouring columns, (c0 - 64, c1 - 64).
//
// One tile of codes is 64 columns, one activation group; step j of the codes is columns 8j .. 8j + 7, two steps of weights.
//
// One vector:  isum[r]  = sum over 64 columns of (centroid - 64) * q     exact, in integers
//              y[r]    += float(isum[r]) * xscale                        tiles from left to right
//              y[r]    *= row_scale[r]
#include "codes.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kCodeSteps = 8;

void describe(Description& given, Matrix& matrix) {
    Pairs own = {};
    const std::size_t bits = given.number("bits", 4, 8);
    own.cols = matrix.cols, matrix.width = bits, own.bits = static_cast<int>(bits);
    own.group_rows = given.number("group_rows", kTileRows, kMaxSize - 1);
    given.require(own.group_rows % kTileRows == 0, "group_rows must be a multiple of 16");
    own.codes = given.array("codes", Type::kUint8, tiled_bytes(matrix.rows, ceil_divide(matrix.cols, 2), 32, bits));
    own.codebooks = given.array("codebooks", Type::kUint8, ceil_divide(matrix.rows, own.group_rows) * (std::size_t{2} << bits));
    own.row_scale = given.array("row_scale", Type::kFloat16, ceil_divide(matrix.rows, kTileRows) * kTileRows);
    keep(own, matrix);
}

template <int bits>
void one_vector(const Pairs& matrix, const Activations& activations, float* out, std::size_t row_begin, std::size_t row_end) {
    constexpr std::size_t kTileBytes = kTileRows * 32 * bits / 8;
    const std::size_t tiles = ceil_divide(matrix.cols, 64);
    const Ahead ahead = activations.ahead;
    const std::uint8_t* tile = matrix.codes + row_begin / kTileRows * tiles * kTileBytes;
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        const PairTables<bits> tables(matrix, row / matrix.group_rows);
        Floats y = splat(0.0f);
        for (std::size_t t = 0; t < tiles; ++t, tile += kTileBytes) {
            prefetch<kTileBytes>(tile, ahead);
            const std::int8_t* x = activations.q + kActivationGroup * t;
            Bytes codes[kCodeSteps];
            unpack_codes<bits, kCodeSteps>(tile, codes);
            Ints sums[2] = {multiply_zeros(splat(kCentroidZero), activations.minus_sum[2 * t]), splat(0)};
            unroll<kCodeSteps>([&](auto index) RWKVQUANT_ALWAYS {
                constexpr int j = decltype(index)::v;
                Bytes weights[2];
                tables.look_up(codes[j], weights);
                sums[0] = dot<7>(sums[0], weights[0], x + 8 * j);
                sums[1] = dot<7>(sums[1], weights[1], x + 8 * j + 4);
            });
            y = add(y, multiply(to_floats(add(sums[0], sums[1])), splat(activations.scale[t])));
        }
        store(out + row, multiply(y, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
    }
}

template <int bits>
void decode(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded) {
    const Pairs& matrix = *static_cast<const Pairs*>(source);
    const std::uint8_t* tile = matrix.codes + (block * ceil_divide(matrix.cols, 64) + group) * (bits * kStepBytes);
    const PairTables<bits> tables(matrix, kTileRows * block / matrix.group_rows);
    for (const Decoded* end = decoded + count; decoded != end; ++decoded, tile += bits * kStepBytes) {
        Bytes codes[kCodeSteps];
        unpack_codes<bits, kCodeSteps>(tile, codes);
        for (int j = 0; j < kCodeSteps; ++j) tables.look_up(codes[j], decoded->step + 2 * j);
        decoded->pieces = 1;
        decoded->piece[0] = {2 * kCodeSteps, splat(1.0f), splat(kCentroidZero)};
    }
}

template <int bits>
void with_bits(const Pairs& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
               std::size_t row_end) {
    if constexpr (kOneVectorLoop) {
        if (is_one_int8_vector(activations)) return one_vector<bits>(matrix, activations, out, row_begin, row_end);
    }
    const Decoder decoder = {decode<bits>, &matrix, matrix.cols, matrix.codes, matrix.row_scale, 7, true, bits * kStepBytes,
                             ceil_divide(matrix.cols, 64) * bits * kStepBytes};
    product_decoded(decoder, activations, out, out_stride, row_begin, row_end);
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    constexpr decltype(&with_bits<4>) kByBits[] = {with_bits<4>, with_bits<5>, with_bits<6>, with_bits<7>, with_bits<8>};
    const Pairs own = kept<Pairs>(matrix);
    kByBits[own.bits - 4](own, activations, out, out_stride, row_begin, row_end);
}

}  // namespace

extern const Codec kPairs;
constinit const Codec kPairs = {"pairs", describe, product, nullptr, false};

}  // namespace rwkvquant::RWKVQUANT_BODY
