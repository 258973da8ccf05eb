// Uniform grids, 1 to 8 bits, in tiles of 64 or 32 columns.
//
// One vector:  isum[r]  = sum over a piece of (code - zero) * q       exact, in integers
//              y[r]    += float(isum[r]) * (scale[r] * xscale)        pieces from left to right
//              y[r]    *= row_scale[r]                                8-bit scales only
//
// A piece is a run of columns inside one weight group and one activation group: a tile of 64 columns, or one or two of 32.
#include "codes.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

struct Uniform {
    std::size_t cols, group_size;  // group_size: columns that share a scale, a multiple of tile_cols
    int bits, tile_cols, scale_bits;  // scale_bits 8: scales of 8 bits times row_scale; 16: float16 scales, and row_scale is null
    bool symmetric;                   // the zero is 2^(bits-1), and `zeros` is null
    const std::uint8_t *codes, *scales, *row_scale, *zeros;
};

void describe(Description& given, Matrix& matrix) {
    Uniform own = {};
    const std::size_t bits = given.number("bits", 1, 8), tile_cols = given.one_of("tile_cols", {32, 64});
    const std::size_t scale_bits = given.one_of("scale_bits", {8, 16});
    own.symmetric = given.one_of("symmetric", {0, 1}) == 1;
    own.group_size = given.number("group_size", 1, kMaxSize - 1);
    given.require(own.group_size % tile_cols == 0, "group_size must be a multiple of tile_cols");
    own.cols = matrix.cols, matrix.width = bits, own.bits = static_cast<int>(bits), own.tile_cols = static_cast<int>(tile_cols);
    own.scale_bits = static_cast<int>(scale_bits);
    const std::size_t blocks = ceil_divide(matrix.rows, kTileRows), groups = blocks * ceil_divide(matrix.cols, own.group_size);
    own.codes = given.array("codes", Type::kUint8, tiled_bytes(matrix.rows, matrix.cols, tile_cols, bits));
    own.scales = given.array("scales", scale_bits == 8 ? Type::kUint8 : Type::kFloat16, groups * kTileRows);
    if (scale_bits == 8) own.row_scale = given.array("row_scale", Type::kFloat16, blocks * kTileRows);
    if (!own.symmetric) own.zeros = given.array("zeros", Type::kUint8, groups * 2 * bits);
    keep(own, matrix);
}

// Scales and zeros of one weight group and 16 rows. A template, so that the loop over tiles has no branch for the kind of scale and zero
// (7 % faster).
template <int bits, bool wide_scales, bool symmetric>
struct Grid {
    const std::uint8_t *scales, *zeros;

    Grid(const Uniform& matrix, std::size_t first_group)
        : scales(matrix.scales + first_group * kTileRows * (wide_scales ? 2 : 1)), zeros(matrix.zeros) {
        if (!symmetric) zeros += first_group * 2 * bits;
    }
    RWKVQUANT_INLINE_MEMBER Floats scale() const { return wide_scales ? floats_from_f16(scales) : floats_from_u8(scales); }
    RWKVQUANT_INLINE_MEMBER Ints zero() const {
        if constexpr (symmetric) return splat(1 << (bits - 1));
        else return zeros_of<bits>(zeros);
    }
    RWKVQUANT_INLINE_MEMBER void next() {
        scales += kTileRows * (wide_scales ? 2 : 1);
        if (!symmetric) zeros += 2 * bits;
    }
    RWKVQUANT_INLINE_MEMBER void prefetch_ahead() const {
        prefetch<64>(scales, kScalesAhead);
        if (!symmetric) prefetch<64>(zeros, kZerosAhead);
    }
};

template <int bits, bool wide_scales, bool symmetric>
void one_vector_64(const Uniform& matrix, const Activations& activations, float* out, std::size_t row_begin, std::size_t row_end) {
    constexpr std::size_t kTileBytes = kTileRows * 64 * bits / 8;
    const std::size_t tiles = ceil_divide(matrix.cols, 64), in_group = matrix.group_size / 64, groups = ceil_divide(tiles, in_group);
    const std::uint8_t* tile = matrix.codes + row_begin / kTileRows * tiles * kTileBytes;
    Grid<bits, wide_scales, symmetric> grid(matrix, row_begin / kTileRows * groups);
    const Ahead ahead = activations.ahead;
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        Floats y = splat(0.0f);
        const std::int8_t* q = activations.q;
        const std::int32_t* minus_sum = activations.minus_sum;
        const float* xscale = activations.scale;
        const auto add_tile = [&](Floats scale, Ints zero) RWKVQUANT_ALWAYS {
            prefetch<kTileBytes>(tile, ahead);
            const Ints isum = dot_codes<bits, 16>(multiply_zeros(zero, *minus_sum), tile, q);
            y = add(y, multiply(to_floats(isum), multiply(scale, splat(*xscale))));
            tile += kTileBytes, q += 64, minus_sum += 2, ++xscale;
        };
        if (in_group == 1) {  // groups of 64, the usual size: an inner loop of one round would cost a third of the instructions
            for (std::size_t t = 0; t < tiles; ++t, grid.next()) {
                grid.prefetch_ahead();
                add_tile(grid.scale(), grid.zero());
            }
        } else {
            for (std::size_t left = tiles; left > 0; grid.next()) {
                grid.prefetch_ahead();
                const Floats scale = grid.scale();
                const Ints zero = grid.zero();
                const std::size_t count = in_group < left ? in_group : left;
                left -= count;
                for (std::size_t t = 0; t < count; ++t) add_tile(scale, zero);
            }
        }
        if (!wide_scales) y = multiply(y, floats_from_f16(matrix.row_scale + 2 * row));
        store(out + row, y, rows_left(row, row_end));
    }
}

template <int bits, bool wide_scales, bool symmetric>
void one_vector_32(const Uniform& matrix, const Activations& activations, float* out, std::size_t row_begin, std::size_t row_end) {
    constexpr std::size_t kTileBytes = kTileRows * 32 * bits / 8;
    const std::size_t tiles = ceil_divide(matrix.cols, 32), in_group = matrix.group_size / 32, groups = ceil_divide(tiles, in_group);
    const std::uint8_t* tile = matrix.codes + row_begin / kTileRows * tiles * kTileBytes;
    Grid<bits, wide_scales, symmetric> grid(matrix, row_begin / kTileRows * groups);
    const Ahead ahead = activations.ahead;
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        Floats y = splat(0.0f);
        const std::int8_t* q = activations.q;
        const std::int32_t* minus_sum = activations.minus_sum;
        for (std::size_t t = 0; t < tiles; grid.next()) {
            const Floats scale = grid.scale();
            const Ints zero = grid.zero();
            grid.prefetch_ahead();
            for (const std::size_t stop = t + in_group < tiles ? t + in_group : tiles; t < stop;) {
                prefetch<2 * kTileBytes>(tile, ahead);
                const Floats both_scales = multiply(scale, splat(activations.scale[t / 2]));
                const std::size_t in_piece = t % 2 == 0 && t + 1 < stop ? 2 : 1;
                const std::int32_t* of_group = minus_sum + t / 2 * 2;
                Ints isum;
                if (in_piece == 2) {
                    isum = dot_codes<bits, 8>(multiply_zeros(zero, of_group[0]), tile, q);
                    isum = dot_codes<bits, 8>(isum, tile + kTileBytes, q + 32);
                } else {
                    isum = dot_codes<bits, 8>(multiply_zeros(zero, t % 2 == 0 ? of_group[0] - of_group[1] : of_group[1]), tile, q);
                }
                y = add(y, multiply(to_floats(isum), both_scales));
                t += in_piece, q += 32 * in_piece, tile += in_piece * kTileBytes;
            }
        }
        if (!wide_scales) y = multiply(y, floats_from_f16(matrix.row_scale + 2 * row));
        store(out + row, y, rows_left(row, row_end));
    }
}

// Scale and zero of one weight group after another, without a division for each.
template <int bits>
class Pieces {
  public:
    Pieces(const Uniform& of, std::size_t block, std::size_t column)
        : matrix(of), at(block * ceil_divide(of.cols, of.group_size) + column / of.group_size), left(of.group_size - column % of.group_size) {
        prefetch<64>(matrix.scales + kTileRows * at * (matrix.scale_bits == 16 ? 2 : 1), kScalesAhead);
        if (!matrix.symmetric) prefetch<64>(matrix.zeros + 2 * bits * at, kZerosAhead);
    }

    // The next piece, of `steps` steps, all in one weight group.
    Piece next(int steps) {
        const bool wide_scales = matrix.scale_bits == 16;
        const Piece piece = {steps,
                             wide_scales ? floats_from_f16(matrix.scales + 2 * kTileRows * at) : floats_from_u8(matrix.scales + kTileRows * at),
                             matrix.symmetric ? splat(1 << (bits - 1)) : zeros_of<bits>(matrix.zeros + 2 * bits * at)};
        left -= 4 * static_cast<std::size_t>(steps);
        if (left == 0) {
            left = matrix.group_size;
            ++at;
        }
        return piece;
    }
    bool ends_within(std::size_t columns) const { return left < columns; }

  private:
    const Uniform& matrix;
    std::size_t at, left;  // the weight group, and its columns that are left
};

template <int bits>
void decode_64(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded) {
    const Uniform& matrix = *static_cast<const Uniform*>(source);
    const std::uint8_t* tile = matrix.codes + (block * ceil_divide(matrix.cols, 64) + group) * (2 * bits * kStepBytes);
    Pieces<bits> pieces(matrix, block, 64 * group);
    for (const Decoded* end = decoded + count; decoded != end; ++decoded, tile += 2 * bits * kStepBytes) {
        unpack_codes<bits, 16>(tile, decoded->step);
        decoded->pieces = 1;
        decoded->piece[0] = pieces.next(16);
    }
}

template <int bits>
void decode_32(const void* source, std::size_t block, std::size_t group, std::size_t count, Decoded* decoded) {
    const Uniform& matrix = *static_cast<const Uniform*>(source);
    constexpr std::size_t kTileBytes = bits * kStepBytes;
    const std::size_t tiles = ceil_divide(matrix.cols, 32);
    const std::uint8_t* tile = matrix.codes + (block * tiles + 2 * group) * kTileBytes;
    Pieces<bits> pieces(matrix, block, 64 * group);
    for (const std::size_t stop = group + count; group < stop; ++group, ++decoded, tile += 2 * kTileBytes) {
        const bool two_tiles = 2 * group + 1 < tiles;
        unpack_codes<bits, 8>(tile, decoded->step);
        if (two_tiles) unpack_codes<bits, 8>(tile + kTileBytes, decoded->step + 8);
        decoded->pieces = two_tiles && pieces.ends_within(64) ? 2 : 1;
        decoded->piece[0] = pieces.next(two_tiles && decoded->pieces == 1 ? 16 : 8);
        if (decoded->pieces == 2) decoded->piece[1] = pieces.next(8);
    }
}

template <int bits, bool wide_scales, bool symmetric>
void one_vector(const Uniform& matrix, const Activations& activations, float* out, std::size_t row_begin, std::size_t row_end) {
    const auto multiply = matrix.tile_cols == 64 ? one_vector_64<bits, wide_scales, symmetric> : one_vector_32<bits, wide_scales, symmetric>;
    multiply(matrix, activations, out, row_begin, row_end);
}

template <int bits>
void with_bits(const Uniform& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
               std::size_t row_end) {
    if constexpr (kOneVectorLoop) {
        if (is_one_int8_vector(activations)) {
            const auto multiply = matrix.scale_bits == 16
                                      ? (matrix.symmetric ? one_vector<bits, true, true> : one_vector<bits, true, false>)
                                      : (matrix.symmetric ? one_vector<bits, false, true> : one_vector<bits, false, false>);
            return multiply(matrix, activations, out, row_begin, row_end);
        }
    }
    const Decoder decoder = {matrix.tile_cols == 64 ? decode_64<bits> : decode_32<bits>, &matrix, matrix.cols, matrix.codes, matrix.row_scale,
                             bits == 8 ? 8 : 7, false, 2 * bits * kStepBytes,
                             ceil_divide(matrix.cols, static_cast<std::size_t>(matrix.tile_cols)) * static_cast<std::size_t>(matrix.tile_cols) * (2 * bits)};
    product_decoded(decoder, activations, out, out_stride, row_begin, row_end);
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    constexpr decltype(&with_bits<1>) kByBits[] = {with_bits<1>, with_bits<2>, with_bits<3>, with_bits<4>,
                                                   with_bits<5>, with_bits<6>, with_bits<7>, with_bits<8>};
    const Uniform own = kept<Uniform>(matrix);
    kByBits[own.bits - 1](own, activations, out, out_stride, row_begin, row_end);
}

}  // namespace

extern const Codec kUniform;
constinit const Codec kUniform = {"uniform", describe, product, nullptr, false};

}  // namespace rwkvquant::RWKVQUANT_BODY
