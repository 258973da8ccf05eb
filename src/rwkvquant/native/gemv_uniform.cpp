// y = W x for uniform3.t16x64 and int8 activations; the definition, with its order of rounding, is kernels/gemv_uniform.py.
//
//     isum[r]  = sum over 64 columns of (code - zero) * xq        exact, in integers
//     y[r]    += float(isum[r]) * (scale[r, group] * xscale)      tiles from left to right
//     y[r]    *= row_scale[r]                                     8-bit scales only
//
// One tile is one activation group; a weight group is one or more whole tiles. Calling with pointers moved by whole row-blocks
// multiplies those rows alone: that is how work will be split.
#include "lanes.h"
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr int kSteps = 16;  // of 4 columns

#if defined(RWKVQUANT_AVX512)

// sum + sums of code * xq over the 64 columns, one a row. Products are added in 32 bits: nothing can saturate.
//
// Two codes are merged at a time, at bits 0..2 and 4..6 of a byte. The second one stays there, and its sums are sixteen times
// too large (a code at most 7 << 4 = 112) until the end. 3.1 instructions for 64 weights; one code at a time took 4.6.
inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    Ints sums[2] = {sum, splat(0)}, sums16[2] = {splat(0), splat(0)};
    const auto two_steps = [&](__m512i low, __m512i high, int step, int chain) {
        const __m512i both = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(0x33), 0xE4);  // mask ? low : high
        const __m512i first = _mm512_and_si512(both, _mm512_set1_epi8(0x07)), second = _mm512_and_si512(both, _mm512_set1_epi8(0x70));
        sums[chain] = _mm512_dpbusd_epi32(sums[chain], first, splat(load<std::int32_t>(xq + 4 * step)));
        sums16[chain] = _mm512_dpbusd_epi32(sums16[chain], second, splat(load<std::int32_t>(xq + 4 * (step + 8))));
    };
    for (int line = 0; line < 2; ++line) {
        const __m512i a = _mm512_loadu_si512(tile.low[line]);      // steps line + 0, 4, 8, 12 at bits 0, 2, 4, 6
        const __m512i b = _mm512_loadu_si512(tile.low[line + 2]);  // steps line + 2, 6, 10, 14
        const __m512i high = _mm512_loadu_si512(tile.high[line]);  // steps line + 0, 2, 4, ... 14 at bits 0, 1, 2, ... 7
        two_steps(a, _mm512_slli_epi16(high, 2), line, 0);
        two_steps(_mm512_srli_epi16(a, 2), high, line + 4, 1);
        two_steps(b, _mm512_slli_epi16(high, 1), line + 2, 0);
        two_steps(_mm512_srli_epi16(b, 2), _mm512_srli_epi16(high, 1), line + 6, 1);
    }
    return _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_srai_epi32(_mm512_add_epi32(sums16[0], sums16[1]), 4));
}

#elif defined(RWKVQUANT_AVX2)

// maddubs adds two byte products into 16 bits, saturating at 32767. Codes are at most 7 and |xq| at most 128, so all 16 steps
// stay below 16 * 2 * 7 * 128 = 28672, and the sums are widened once a tile.
static_assert(kSteps * 2 * 7 * 128 <= 32767);

// The same for 8 rows, the half of each line that starts at byte `half`.
inline __m256i add_dot_half(__m256i sum, const Uniform3Tile& tile, std::size_t half, const std::int8_t* xq) {
    __m256i sums = _mm256_setzero_si256();
    const auto step_of = [&](__m256i code, int step) {
        sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(code, _mm256_set1_epi32(load<std::int32_t>(xq + 4 * step))));
    };
    const auto two_steps = [&](__m256i low, __m256i high, int step) {  // codes at bits 0..2 and 4..6
        const __m256i both = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x33)), _mm256_and_si256(high, _mm256_set1_epi8(0x44)));
        step_of(_mm256_and_si256(both, _mm256_set1_epi8(7)), step);
        step_of(_mm256_and_si256(_mm256_srli_epi16(both, 4), _mm256_set1_epi8(7)), step + 8);
    };
    const auto line_of = [=](const std::uint8_t* line) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + half)); };
    for (int line = 0; line < 2; ++line) {
        const __m256i a = line_of(tile.low[line]), b = line_of(tile.low[line + 2]), high = line_of(tile.high[line]);
        two_steps(a, _mm256_slli_epi16(high, 2), line);
        two_steps(_mm256_srli_epi16(a, 2), high, line + 4);
        two_steps(b, _mm256_slli_epi16(high, 1), line + 2);
        two_steps(_mm256_srli_epi16(b, 2), _mm256_srli_epi16(high, 1), line + 6);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    return {add_dot_half(sum.top, tile, 0, xq), add_dot_half(sum.bottom, tile, 32, xq)};
}

#else

inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    for (int step = 0; step < kSteps; ++step) {
        const std::uint8_t *low = tile.low[step % 4], *high = tile.high[step % 2];
        std::uint8_t code[kStepBytes];  // decoded in a loop of its own, which compilers turn into vector instructions
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            code[byte] = static_cast<std::uint8_t>((low[byte] >> 2 * (step / 4) & 3) | (high[byte] >> step / 2 & 1) << 2);
        }
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) sum.row[byte / 4] += code[byte] * xq[4 * step + byte % 4];
    }
    return sum;
}

#endif

// A template, so that the loop over tiles asks neither question: it was 7 % from memory.
template <bool wide_scales, bool symmetric>
void multiply_rows(const Uniform3Tile* tile, const std::uint8_t* scales, const std::uint8_t* row_scale, const Uniform3Zeros* zeros,
                   const std::int8_t* xq, const std::uint8_t* xscale, const std::int32_t* xsum, std::size_t rows, std::size_t tiles,
                   std::size_t tiles_in_group, float* out) {
    constexpr std::size_t kCodesAhead = 8192, kScalesAhead = 1024, kZerosAhead = 512;
    for (std::size_t row = 0; row < rows; row += kTileRows) {
        Floats y = splat(0.0f);
        std::size_t left_in_group = tiles_in_group;
        for (std::size_t t = 0; t < tiles; ++t, ++tile) {
            prefetch<sizeof *tile>(tile, kCodesAhead);
            prefetch<64>(scales, kScalesAhead);
            if (!symmetric) prefetch<64>(zeros, kZerosAhead);
            const Floats scale = wide_scales ? floats_from_f16(scales) : floats_from_u8(scales);
            const Ints start = symmetric ? splat(-4 * xsum[t]) : multiply_zeros(uniform3_zeros(*zeros), -xsum[t]);
            const Ints isum = add_dot(start, *tile, xq + kActivationGroup * t);
            y = add(y, multiply(to_floats(isum), multiply(scale, splat(load<float>(xscale + 4 * t)))));
            if (--left_in_group == 0 || t + 1 == tiles) {
                left_in_group = tiles_in_group;
                scales += kTileRows * (wide_scales ? 2 : 1);
                zeros += symmetric ? 0 : 1;
            }
        }
        if (!wide_scales) {
            y = multiply(y, floats_from_f16(row_scale));
            row_scale += 2 * kTileRows;
        }
        store(out + row, y, rows - row < kTileRows ? rows - row : kTileRows);
    }
}

}  // namespace

void gemv_uniform(const std::uint8_t* codes, const std::uint8_t* scales, const std::uint8_t* row_scale, const std::uint8_t* zeros,
                  const std::int8_t* xq, const std::uint8_t* xscale, const std::int32_t* xsum, std::size_t rows, std::size_t cols,
                  std::size_t group_size, float* out) {
    const bool wide_scales = row_scale == nullptr, symmetric = zeros == nullptr;
    const auto multiply = wide_scales ? (symmetric ? multiply_rows<true, true> : multiply_rows<true, false>)
                                      : (symmetric ? multiply_rows<false, true> : multiply_rows<false, false>);
    multiply(reinterpret_cast<const Uniform3Tile*>(codes), scales, row_scale, reinterpret_cast<const Uniform3Zeros*>(zeros), xq, xscale,
             xsum, rows, (cols + kActivationGroup - 1) / kActivationGroup, group_size / kActivationGroup, out);
}

}  // namespace rwkvquant::RWKVQUANT_BODY
