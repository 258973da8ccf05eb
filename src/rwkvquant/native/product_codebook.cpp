// One-dimensional codebooks of 2 to 4 bits in tiles of 32 columns; a centroid c of 0..127 is the weight c - 64.
//
// One vector:  isum[r]  = sum over an activation group of (centroid[code] - 64) * q     exact, in integers; two tiles or the last
//              y[r]    += float(isum[r]) * xscale                                       groups from left to right
//              y[r]    *= row_scale[r]
#include "codebook_tables.h"
#include "codes.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kSteps = 8;

void describe(Description& given, Matrix& matrix) {
    Codebook own = {};
    const std::size_t bits = given.number("bits", 2, 4), rank = given.number("rank", 0, 8), shift = given.number("shift", 0, 14);
    own.group_rows = given.one_of("group_rows", {2, 4, 8, 16});
    given.require(std::size_t{1} << bits <= 4 * own.group_rows, "2**bits must be at most 4 * group_rows");
    own.cols = matrix.cols, matrix.width = bits;
    own.bits = static_cast<int>(bits), own.rank = static_cast<int>(rank), own.shift = static_cast<int>(shift);
    const std::size_t blocks = ceil_divide(matrix.rows, kTileRows), entries = std::size_t{1} << bits;
    const std::size_t tables = blocks * kTileRows / own.group_rows * ceil_divide(matrix.cols, 32);
    own.codes = given.array("codes", Type::kUint8, tiled_bytes(matrix.rows, matrix.cols, 32, bits));
    own.row_scale = given.array("row_scale", Type::kFloat16, blocks * kTileRows);
    if (rank == 0) {
        own.codebooks = given.array("codebooks", Type::kUint8, tables * entries);
    } else {
        own.coefficients = given.array("coefficients", Type::kInt8, tables * rank);
        own.basis = given.array("basis", Type::kInt8, rank * entries);
    }
    keep(own, matrix);
}

// start + sums of centroid * x over the 32 columns of a tile, one sum for each row.
//
// Codes are two in a byte. With tables of at most 8 entries one mask is enough for both: a shuffle ignores bits 4 to 6 of its index, and
// bits 3 and 7 are 0.
template <int bits, typename Tables>
RWKVQUANT_INLINE Ints dot_centroids(Ints start, const std::uint8_t* tile, Bytes tables, Bytes offset, const std::int8_t* x) {
    constexpr bool kOneMask = Tables::kUsed <= 8;
    constexpr std::uint8_t kFirst = kCodeMask<bits>, kBoth = kFirst << 4 | kFirst;
    Ints sums[2] = {start, splat(0)};
    unroll<kSteps / 2>([&](auto index) RWKVQUANT_ALWAYS {
        constexpr int j = decltype(index)::v;
        const Bytes both = index_of(two_steps<bits, kSteps, j>(tile), kOneMask ? kBoth : kFirst, offset);
        const Bytes second = shift<-4>(kOneMask ? both : two_steps<bits, kSteps, j>(tile));
        sums[0] = dot<7>(sums[0], lookup(tables, both), x + 4 * j);
        sums[1] = dot<7>(sums[1], lookup(tables, kOneMask ? second : index_of(second, kFirst, offset)), x + 4 * (j + kSteps / 2));
    });
    return add(sums[0], sums[1]);
}

template <int bits, typename Tables>
void one_vector(const Codebook& matrix, const Tables& tables, const Activations& activations, float* out, std::size_t row_begin,
                std::size_t row_end) {
    constexpr std::size_t kTileBytes = kTileRows * 32 * bits / 8;
    const std::size_t tiles = ceil_divide(matrix.cols, 32), first = row_begin / kTileRows * tiles;
    const std::uint8_t *tile = matrix.codes + first * kTileBytes, *table = tables.stored + first * tables.tile_bytes;
    const Bytes offset = tables.offset();
    const Ahead ahead = activations.ahead;
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        Floats y = splat(0.0f);
        const std::int8_t* q = activations.q;
        const std::int32_t* minus_sum = activations.minus_sum;
        const float* xscale = activations.scale;
        for (std::size_t t = 0; t < tiles; t += 2, q += kActivationGroup, minus_sum += 2, ++xscale) {
            prefetch<2 * kTileBytes>(tile, ahead);
            tables.prefetch_ahead(table);
            Ints isum = dot_centroids<bits, Tables>(multiply_zeros(splat(kCentroidZero), *minus_sum), tile, tables.of_tile(table), offset, q);
            tile += kTileBytes, table += tables.tile_bytes;
            if (t + 1 < tiles) {
                isum = dot_centroids<bits, Tables>(isum, tile, tables.of_tile(table), offset, q + 32);
                tile += kTileBytes, table += tables.tile_bytes;
            }
            y = add(y, multiply(to_floats(isum), splat(*xscale)));
        }
        store(out + row, multiply(y, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
    }
}

template <typename Tables>
struct Source {
    const Codebook& matrix;
    const Tables& tables;
};

template <int bits, typename Tables>
void decode(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded) {
    const auto& [matrix, tables] = *static_cast<const Source<Tables>*>(source);
    const std::size_t tiles = ceil_divide(matrix.cols, 32), first = block * tiles + 2 * group;
    const std::uint8_t *tile = matrix.codes + first * (bits * kStepBytes), *table = tables.stored + first * tables.tile_bytes;
    const Bytes offset = tables.offset();
    for (const std::size_t stop = group + count; group < stop; ++group, ++decoded) {
        const int in_group = 2 * group + 1 < tiles ? 2 : 1;
        tables.prefetch_ahead(table);
        for (int t = 0; t < in_group; ++t, tile += bits * kStepBytes, table += tables.tile_bytes) {
            Bytes* step = decoded->step + kSteps * t;
            unpack_codes<bits, kSteps>(tile, step);
            const Bytes of_tile = tables.of_tile(table);
            for (int j = 0; j < kSteps; ++j) step[j] = lookup(of_tile, index_of(step[j], kCodeMask<bits>, offset));
        }
        decoded->pieces = 1;
        decoded->piece[0] = {kSteps * in_group, splat(1.0f), splat(kCentroidZero)};
    }
}

template <int bits, typename Tables>
void with_tables(const Codebook& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                 std::size_t row_end) {
    const Tables tables(matrix);
    if constexpr (kOneVectorLoop) {
        if (is_one_int8_vector(activations)) return one_vector<bits>(matrix, tables, activations, out, row_begin, row_end);
    }
    const Source<Tables> source = {matrix, tables};
    const Decoder decoder = {decode<bits, Tables>, &source, matrix.cols, matrix.codes, matrix.row_scale, 7, true, 2 * bits * kStepBytes,
                             ceil_divide(matrix.cols, 32) * bits * kStepBytes};
    product_decoded(decoder, activations, out, out_stride, row_begin, row_end);
}

template <int bits, bool two_tables>
void with_group(const Codebook& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                std::size_t row_end) {
    const auto multiply = matrix.rank == 0   ? with_tables<bits, StoredTables<bits, two_tables>>
                          : matrix.rank <= 4 ? with_tables<bits, CompressedTables<bits, two_tables, 4>>
                                             : with_tables<bits, CompressedTables<bits, two_tables, 8>>;
    multiply(matrix, activations, out, out_stride, row_begin, row_end);
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    const Codebook own = kept<Codebook>(matrix);
    const bool two_tables = own.group_rows == 2;  // in the 16 bytes that serve 4 rows
    const auto multiply = own.bits == 2   ? (two_tables ? with_group<2, true> : with_group<2, false>)
                          : own.bits == 3 ? (two_tables ? with_group<3, true> : with_group<3, false>)
                                          : with_group<4, false>;
    multiply(own, activations, out, out_stride, row_begin, row_end);
}

}  // namespace

extern const Codec kCodebook;
constinit const Codec kCodebook = {"codebook", describe, product, nullptr, false};

}  // namespace rwkvquant::RWKVQUANT_BODY
