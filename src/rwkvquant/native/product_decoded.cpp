// The product of a matrix with any number of vectors. A few tiles of one or two row-blocks at a time are decoded once for all vectors.
//
// int8 activations, each piece:     isum[r] = sum of (code - zero) * q                exact, in integers
//                                   y[r]   += float(isum[r]) * (scale[r] * xscale)    pieces from left to right
// float32 activations, each piece:  s[k][r] = sum of float(code - zero) * x           over columns 4j + k, from left to right
//                                   y[r]   += ((s[0] + s[1]) + (s[2] + s[3])) * scale[r]
// in the end:                       y[r]   *= row_scale[r]                            where there is one
//
// A vector has the same operations in the same order for any number of other vectors.
#include "codes.h"
#include "product.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kPass = 256;  // at most so many vectors share one decoding: see Activations::together
constexpr std::size_t kStrip = 4;   // activation groups decoded together: 4 KiB for each row-block, in the first-level cache

// The vectors of a pass, and the groups that are decoded now.
struct Pass {
    const Activations& activations;
    std::size_t padded, groups;      // columns from vector to vector, and groups from scale to scale
    std::size_t first_group, count;  // of the strip
    const Decoded (*strip)[kStrip];  // [row-block][group of the strip]
    float (*y)[kPass * kTileRows];   // [row-block][vector of the pass, row]
    std::size_t group_bytes, block_bytes, out_stride;
    const std::uint8_t* ahead = nullptr;  // the codes to prefetch meanwhile
    const float* results = nullptr;       // in the last strip: where the rows of the first vector of the pass will be written
};

// `at` is the place in the pass of vector `vector`. What the loop needs is copied first: after a store to y, a compiler must
// assume that everything else in memory has changed.
template <int value_bits, bool centroids, int blocks, int vectors>
void add_int8(const Pass& pass, std::size_t vector, std::size_t at) {
    constexpr int kPairs = blocks * vectors, kChains = kPairs < kEnough ? 2 : 1;
    const auto each = [](auto body) RWKVQUANT_ALWAYS {
        unroll<kPairs>([&](auto index) RWKVQUANT_ALWAYS { body(Int<decltype(index)::v / vectors>{}, Int<decltype(index)::v % vectors>{}); });
    };
    const Decoded(*const strip)[kStrip] = pass.strip;
    float* const y = pass.y[0] + kTileRows * at;
    const std::size_t padded = pass.padded, count = pass.count;
    const std::int8_t* q = pass.activations.q + vector * padded + kActivationGroup * pass.first_group;

    // Copied to where their addresses are constants: pointers to all vectors would need more registers than there are.
    float xscale[vectors][kStrip];
    std::int32_t minus_sum[vectors][kStrip][2];  // over the group, and over its second half
    unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
        const std::size_t first = (vector + v.v) * pass.groups + pass.first_group;
        const float* const scales = pass.activations.scale + first;
        const std::int32_t* const sums = pass.activations.minus_sum + 2 * first;
        if (count == kStrip) {
            std::memcpy(xscale[v.v], scales, sizeof xscale[v.v]), std::memcpy(minus_sum[v.v], sums, sizeof minus_sum[v.v]);
        } else {
            for (std::size_t g = 0; g < count; ++g) xscale[v.v][g] = scales[g], std::memcpy(minus_sum[v.v][g], sums + 2 * g, 8);
        }
    });
    if (pass.results != nullptr) {  // vectors lie a page or more apart, so the hardware does not fetch these lines by itself
        each([&](auto b, auto v) RWKVQUANT_ALWAYS { __builtin_prefetch(pass.results + (at + v.v) * pass.out_stride + b.v * kTileRows, 1); });
    }
    for (std::size_t g = 0; g < count; ++g, q += kActivationGroup) {
        // A few lines at a time: a core can wait for a few dozen lines only, and would stop until they have come.
        if (at == 0) {
            for (std::size_t b = 0; b < blocks; ++b) {
                const std::uint8_t* codes = pass.ahead + b * pass.block_bytes + g * pass.group_bytes;
                for (std::size_t line = 0; line < pass.group_bytes; line += kStepBytes) __builtin_prefetch(codes + line);
            }
        }
        int step = 0;
        const int pieces = centroids ? 1 : strip[0][g].pieces;
        for (int p = 0; p < pieces; ++p) {
            // minus the sum of q over the piece
            const auto factor = [&](auto v) RWKVQUANT_ALWAYS {
                const std::int32_t* const of_group = minus_sum[v.v][g];
                return pieces == 1 ? of_group[0] : p == 0 ? of_group[0] - of_group[1] : of_group[1];
            };
            Ints isum[blocks][vectors], other[blocks][vectors];
            unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
                const std::int32_t of_vector = factor(v);
                const Ints start = times_power_of_two<6>(splat(of_vector));
                static_assert(kCentroidZero == 1 << 6);
                unroll<blocks>([&](auto b) RWKVQUANT_ALWAYS {
                    isum[b.v][v.v] = centroids ? start : multiply_zeros(strip[b.v][g].piece[p].zero, of_vector);
                    if constexpr (kChains == 2) other[b.v][v.v] = splat(0);
                });
            });
            const auto add_step = [&](Ints(&sums)[blocks][vectors]) RWKVQUANT_ALWAYS {
                Bytes bytes[blocks];
                unroll<blocks>([&](auto b) RWKVQUANT_ALWAYS { bytes[b.v] = strip[b.v][g].step[step]; });
                unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
                    const Four four = four_from(q + v.v * padded + 4 * step);
                    unroll<blocks>([&](auto b) RWKVQUANT_ALWAYS { sums[b.v][v.v] = dot<value_bits>(sums[b.v][v.v], bytes[b.v], four); });
                });
                ++step;
            };
            const int stop = step + strip[0][g].piece[p].steps;  // 8 or 16 of them
            do {
                add_step(isum);
                add_step(kChains == 2 ? other : isum);
            } while (step < stop);
            __asm__ volatile("" ::: "memory");  // so that y is read after the loop, not before: the loop needs the registers (2 %)
            each([&](auto b, auto v) RWKVQUANT_ALWAYS {
                if constexpr (kChains == 2) isum[b.v][v.v] = add(isum[b.v][v.v], other[b.v][v.v]);
                Floats scale = splat(xscale[v.v][g]);
                if constexpr (!centroids) scale = multiply(strip[b.v][g].piece[p].scale, scale);
                float* const to = y + kTileRows * (kPass * b.v + v.v);
                store(to, add(floats_from(to), multiply(to_floats(isum[b.v][v.v]), scale)));
            });
        }
    }
}

template <int value_bits, bool centroids, int blocks>
void add_int8_strip(const Pass& pass, std::size_t first, std::size_t count) {
    std::size_t v = 0;
    for (; v + kVectors <= count; v += kVectors) add_int8<value_bits, centroids, blocks, kVectors>(pass, first + v, v);
    unroll<kVectors - 1>([&](auto index) RWKVQUANT_ALWAYS {
        constexpr int kLeft = decltype(index)::v + 1;
        if (count - v == kLeft) add_int8<value_bits, centroids, blocks, kLeft>(pass, first + v, v);
    });
}

template <int blocks>
void add_float_strip(const Pass& pass, std::size_t first, std::size_t count) {
    for (std::size_t b = 0; b < blocks; ++b) {
        for (std::size_t g = 0; g < pass.count; ++g) {
            const Decoded& decoded = pass.strip[b][g];
            int begin = 0;
            for (int p = 0; p < decoded.pieces; ++p) {
                const Piece& piece = decoded.piece[p];
                Floats weights[kGroupSteps][4];
                for (int step = 0; step < piece.steps; ++step) {
                    unroll<4>([&](auto c) RWKVQUANT_ALWAYS {
                        weights[step][c.v] = to_floats(subtract(column<c.v>(decoded.step[begin + step]), piece.zero));
                    });
                }
                for (std::size_t v = 0; v < count; ++v) {
                    const std::size_t at = (first + v) * pass.padded + kActivationGroup * (pass.first_group + g);
                    const float* x = pass.activations.x + at + 4 * static_cast<std::size_t>(begin);
                    Floats sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
                    for (int step = 0; step < piece.steps; ++step, x += 4) {
                        for (int c = 0; c < 4; ++c) sums[c] = add(sums[c], multiply(weights[step][c], splat(x[c])));
                    }
                    float* y = pass.y[b] + kTileRows * v;
                    store(y, add(floats_from(y), multiply(add(add(sums[0], sums[1]), add(sums[2], sums[3])), piece.scale)));
                }
                begin += piece.steps;
            }
        }
    }
}

using AddStrip = void (*)(const Pass& pass, std::size_t first, std::size_t count);

template <int blocks>
AddStrip add_strip_for(const Decoder& decoder, const Activations& activations) {
    if (activations.q == nullptr) return add_float_strip<blocks>;
    constexpr int kSeven = kSevenBitLoop ? 7 : 8;
    if (decoder.centroids) return add_int8_strip<kSeven, true, blocks>;
    return decoder.value_bits == 7 ? add_int8_strip<kSeven, false, blocks> : add_int8_strip<8, false, blocks>;
}

// The codes that will be decoded kStripsAhead strips later. kBlocks row-blocks are decoded together, so the strip after the last one of a
// row-block is that of the row-block kBlocks further.
RWKVQUANT_INLINE void look_ahead(const Decoder& decoder, std::size_t block, Pass& pass) {
    std::size_t group = pass.first_group + kStripsAhead * kStrip;
    for (; group >= pass.groups; group -= pass.groups) block += kBlocks;
    pass.ahead = decoder.codes + block * decoder.block_bytes + group * decoder.group_bytes;
}

// The number of vectors in each pass but the last one: passes are about equal.
std::size_t vectors_of_pass(const Activations& activations) {
    const std::size_t most = activations.together < kPass ? activations.together : kPass;
    const std::size_t passes = ceil_divide(activations.count, most);
    return ceil_divide(ceil_divide(activations.count, passes), kVectors) * kVectors;
}

RWKVQUANT_INLINE void write_rows(float* out, Floats values, std::size_t rows) {
    if (rows == kTileRows) store(out, values);
    else store(out, values, rows);
}

}  // namespace

void product_decoded(const Decoder& decoder, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                     std::size_t row_end) {
    const AddStrip add_one = add_strip_for<1>(decoder, activations), add_all = add_strip_for<kBlocks>(decoder, activations);
    const std::size_t groups = ceil_divide(decoder.cols, kActivationGroup), vectors = vectors_of_pass(activations);
    alignas(64) float y[kBlocks][kPass * kTileRows];
    Decoded strip[kBlocks][kStrip];
    Pass pass = {activations, groups * kActivationGroup, groups, 0, 0, strip, y, decoder.group_bytes, decoder.block_bytes, out_stride};
    for (std::size_t row = row_begin; row < row_end; row += kBlocks * kTileRows) {
        const std::size_t blocks = row + kBlocks * kTileRows - kTileRows < row_end ? kBlocks : 1;
        for (std::size_t first = 0; first < activations.count; first += vectors) {
            const std::size_t left = activations.count - first, count = left < vectors ? left : vectors;
            for (std::size_t b = 0; b < blocks; ++b) std::memset(y[b], 0, count * kTileRows * sizeof(float));
            for (pass.first_group = 0; pass.first_group < groups; pass.first_group += pass.count) {
                pass.count = groups - pass.first_group < kStrip ? groups - pass.first_group : kStrip;
                pass.results = pass.first_group + pass.count == groups ? out + first * out_stride + row : nullptr;
                look_ahead(decoder, row / kTileRows, pass);
                for (std::size_t b = 0; b < blocks; ++b) {
                    decoder.decode(decoder.source, row / kTileRows + b, pass.first_group, pass.count, strip[b]);
                }
                (blocks == 1 ? add_one : add_all)(pass, first, count);
            }
            Floats scale[kBlocks];
            for (std::size_t b = 0; b < blocks; ++b) {
                const bool stored = decoder.row_scale != nullptr;
                scale[b] = stored ? floats_from_f16(decoder.row_scale + 2 * (row + b * kTileRows)) : splat(1.0f);
            }
            for (std::size_t v = 0; v < count; ++v) {
                for (std::size_t b = 0; b < blocks; ++b) {
                    const std::size_t at = row + b * kTileRows;
                    write_rows(out + (first + v) * out_stride + at, multiply(floats_from(y[b] + kTileRows * v), scale[b]), rows_left(at, row_end));
                }
            }
        }
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
