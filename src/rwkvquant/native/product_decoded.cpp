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

constexpr std::size_t kPass = 128;  // vectors that share one decoding
constexpr std::size_t kStrip = 4;   // activation groups decoded together: 4 KiB for each row-block, in the first-level cache

// The vectors of a pass, and the groups that are decoded now.
struct Pass {
    const Activations& activations;
    std::size_t padded, groups;      // columns from vector to vector, and groups from scale to scale
    std::size_t first_group, count;  // of the strip
    const Decoded (*strip)[kStrip];  // [row-block][group of the strip]
    float (*y)[kPass * kTileRows];   // [row-block][vector of the pass, row]
    std::size_t group_bytes, block_bytes;
    const std::uint8_t* ahead = nullptr;  // the codes to prefetch meanwhile
};

// `at` is the place in the pass of vector `vector`. What the loop needs is copied first: after a store to y, a compiler must
// assume that everything else in memory has changed.
template <int value_bits, int blocks, int vectors>
void add_int8(const Pass& pass, std::size_t vector, std::size_t at) {
    constexpr int kPairs = blocks * vectors, kChains = kPairs < kEnough ? 2 : 1;
    const auto each = [](auto body) RWKVQUANT_ALWAYS {
        unroll<kPairs>([&](auto index) RWKVQUANT_ALWAYS { body(Int<decltype(index)::v / vectors>{}, Int<decltype(index)::v % vectors>{}); });
    };
    const Decoded(*const strip)[kStrip] = pass.strip;
    float* const y = pass.y[0] + kTileRows * at;
    const std::size_t padded = pass.padded, groups = pass.groups, count = pass.count;
    const std::int8_t* q = pass.activations.q + vector * padded + kActivationGroup * pass.first_group;
    const std::int32_t* minus_sum = pass.activations.minus_sum + 2 * (vector * groups + pass.first_group);
    const float* xscale = pass.activations.scale + vector * groups + pass.first_group;
    for (std::size_t g = 0; g < count; ++g, q += kActivationGroup, minus_sum += 2, ++xscale) {
        // A few lines at a time: a core can wait for a few dozen lines only, and would stop until they have come.
        if (at == 0) {
            for (std::size_t b = 0; b < blocks; ++b) {
                const std::uint8_t* codes = pass.ahead + b * pass.block_bytes + g * pass.group_bytes;
                for (std::size_t line = 0; line < pass.group_bytes; line += kStepBytes) __builtin_prefetch(codes + line);
            }
        }
        int step = 0;
        for (int p = 0; p < strip[0][g].pieces; ++p) {
            const bool whole = strip[0][g].pieces == 1;
            std::int32_t half[vectors];
            if (!whole) {
                unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
                    const std::int32_t* of_group = minus_sum + 2 * v.v * groups;
                    half[v.v] = p == 0 ? of_group[0] - of_group[1] : of_group[1];
                });
            }
            const std::int32_t* const factor = whole ? minus_sum : half;  // read from memory into all lanes at once
            const std::size_t apart = whole ? 2 * groups : 1;
            Ints isum[blocks][vectors], other[blocks][vectors];
            each([&](auto b, auto v) RWKVQUANT_ALWAYS {
                isum[b.v][v.v] = multiply_zeros(strip[b.v][g].piece[p].zero, factor[v.v * apart]);
                if constexpr (kChains == 2) other[b.v][v.v] = splat(0);
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
                const Floats scale = multiply(strip[b.v][g].piece[p].scale, splat(xscale[v.v * groups]));
                float* const to = y + kTileRows * (kPass * b.v + v.v);
                store(to, add(floats_from(to), multiply(to_floats(isum[b.v][v.v]), scale)));
            });
        }
    }
}

template <int value_bits, int blocks>
void add_int8_strip(const Pass& pass, std::size_t first, std::size_t count) {
    std::size_t v = 0;
    for (; v + kVectors <= count; v += kVectors) add_int8<value_bits, blocks, kVectors>(pass, first + v, v);
    unroll<kVectors - 1>([&](auto index) RWKVQUANT_ALWAYS {
        constexpr int kLeft = decltype(index)::v + 1;
        if (count - v == kLeft) add_int8<value_bits, blocks, kLeft>(pass, first + v, v);
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
AddStrip add_strip_for([[maybe_unused]] const Decoder& decoder, const Activations& activations) {
    if (activations.q == nullptr) return add_float_strip<blocks>;
    if constexpr (kSevenBitLoop) {
        if (decoder.value_bits == 7) return add_int8_strip<7, blocks>;
    }
    return add_int8_strip<8, blocks>;
}

// The codes that will be decoded kStripsAhead strips later. kBlocks row-blocks are decoded together, so the strip after the last one of a
// row-block is that of the row-block kBlocks further.
RWKVQUANT_INLINE void look_ahead(const Decoder& decoder, std::size_t block, Pass& pass) {
    std::size_t group = pass.first_group + kStripsAhead * kStrip;
    for (; group >= pass.groups; group -= pass.groups) block += kBlocks;
    pass.ahead = decoder.codes + block * decoder.block_bytes + group * decoder.group_bytes;
}

}  // namespace

void product_decoded(const Decoder& decoder, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
                     std::size_t row_end) {
    const AddStrip add_one = add_strip_for<1>(decoder, activations), add_all = add_strip_for<kBlocks>(decoder, activations);
    const std::size_t groups = ceil_divide(decoder.cols, kActivationGroup);
    alignas(64) float y[kBlocks][kPass * kTileRows];
    Decoded strip[kBlocks][kStrip];
    Pass pass = {activations, groups * kActivationGroup, groups, 0, 0, strip, y, decoder.group_bytes, decoder.block_bytes};
    for (std::size_t row = row_begin; row < row_end; row += kBlocks * kTileRows) {
        const std::size_t blocks = row + kBlocks * kTileRows - kTileRows < row_end ? kBlocks : 1;
        for (std::size_t first = 0; first < activations.count; first += kPass) {
            const std::size_t left = activations.count - first, count = left < kPass ? left : kPass;
            for (std::size_t b = 0; b < blocks; ++b) std::memset(y[b], 0, count * kTileRows * sizeof(float));
            for (pass.first_group = 0; pass.first_group < groups; pass.first_group += pass.count) {
                pass.count = groups - pass.first_group < kStrip ? groups - pass.first_group : kStrip;
                look_ahead(decoder, row / kTileRows, pass);
                for (std::size_t b = 0; b < blocks; ++b) {
                    decoder.decode(decoder.source, row / kTileRows + b, pass.first_group, pass.count, strip[b]);
                }
                (blocks == 1 ? add_one : add_all)(pass, first, count);
            }
            for (std::size_t b = 0; b < blocks; ++b) {
                const std::size_t at = row + b * kTileRows;
                for (std::size_t v = 0; v < count; ++v) {
                    Floats result = floats_from(y[b] + kTileRows * v);
                    if (decoder.row_scale != nullptr) result = multiply(result, floats_from_f16(decoder.row_scale + 2 * at));
                    store(out + (first + v) * out_stride + at, result, rows_left(at, row_end));
                }
            }
        }
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
