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

// A code put together where its low bits stand: bits `place`, place + 1 of `low` and bit place + 2 of `high`, all else 0.
template <int place>
inline __m512i merge(__m512i low, __m512i high) {
    const __m512i both = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(3 << place), 0xE4);  // mask ? low : high
    return _mm512_and_si512(both, _mm512_set1_epi8(7 << place));
}

// sum + sums of code * xq over the 64 columns, one a row. Products are added in 32 bits: nothing can saturate.
//
// Codes stay at bit 0, 2 or 4, so that shifts are shared: sum gathers codes, sum2 four times, sum4 sixteen times the codes
// (at most 7 << 4 = 112). Shifted to bit 0 each, they cost 4.6 instructions for 64 weights; so, 3.9.
inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    const auto step = [&](Ints& to, __m512i code, int j) { to = _mm512_dpbusd_epi32(to, code, splat(load<std::int32_t>(xq + 4 * j))); };
    Ints sum2 = splat(0), sum4 = splat(0);
    for (int half = 0; half < 2; ++half) {
        const int j = 8 * half;
        const __m512i a = _mm512_loadu_si512(tile.low[2 * half]);      // steps j .. j + 3 at bits 0, 2, 4, 6
        const __m512i b = _mm512_loadu_si512(tile.low[2 * half + 1]);  // steps j + 4 .. j + 7
        const __m512i high = _mm512_loadu_si512(tile.high[half]);      // steps j .. j + 7 at bits 0 .. 7
        const __m512i high_left3 = _mm512_slli_epi16(high, 3), high_right1 = _mm512_srli_epi16(high, 1);
        step(sum, merge<0>(a, _mm512_slli_epi16(high, 2)), j);
        step(sum2, merge<2>(a, high_left3), j + 1);
        step(sum4, merge<4>(a, _mm512_slli_epi16(high, 4)), j + 2);
        step(sum4, merge<4>(_mm512_srli_epi16(a, 2), high_left3), j + 3);  // at bit 6 it would not fit the byte
        step(sum, merge<0>(b, _mm512_srli_epi16(high, 2)), j + 4);
        step(sum2, merge<2>(b, high_right1), j + 5);
        step(sum4, merge<4>(b, high), j + 6);
        step(sum4, merge<4>(_mm512_srli_epi16(b, 2), high_right1), j + 7);
    }
    return _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_srai_epi32(sum2, 2), _mm512_srai_epi32(sum4, 4)));
}

#elif defined(RWKVQUANT_AVX2)

// (8 rows x 4 columns) codes of one half of a step, one a byte.
template <int step>
inline __m256i codes_of(const Uniform3Tile& tile, std::size_t half) {
    constexpr int low_shift = 2 * (step % 4), high_shift = step % 8 - 2;
    const auto* low_line = reinterpret_cast<const __m256i*>(tile.low[step / 4] + half);
    const auto* high_line = reinterpret_cast<const __m256i*>(tile.high[step / 8] + half);
    const __m256i low = _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256(low_line), low_shift), _mm256_set1_epi8(3));
    const __m256i line = _mm256_loadu_si256(high_line);
    const __m256i high = high_shift < 0 ? _mm256_slli_epi16(line, high_shift < 0 ? -high_shift : 0)
                                        : _mm256_srli_epi16(line, high_shift < 0 ? 0 : high_shift);
    return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(4)));
}

// maddubs adds two byte products into 16 bits, saturating at 32767. Codes are at most 7 and |xq| at most 128, so all 16 steps
// stay below 16 * 2 * 7 * 128 = 28672, and the sums are widened once a tile.
static_assert(kSteps * 2 * 7 * 128 <= 32767);

template <int... step>
inline __m256i add_dot_half(__m256i sum, const Uniform3Tile& tile, std::size_t half, const std::int8_t* xq) {
    __m256i sums = _mm256_setzero_si256();
    ((sums = _mm256_add_epi16(
          sums, _mm256_maddubs_epi16(codes_of<step>(tile, half), _mm256_set1_epi32(load<std::int32_t>(xq + 4 * step))))),
     ...);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    return {add_dot_half<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(sum.top, tile, 0, xq),
            add_dot_half<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(sum.bottom, tile, 32, xq)};
}

#else

inline Ints add_dot(Ints sum, const Uniform3Tile& tile, const std::int8_t* xq) {
    for (int step = 0; step < kSteps; ++step) {
        const std::uint8_t *low = tile.low[step / 4], *high = tile.high[step / 8];
        std::uint8_t code[kStepBytes];  // decoded in a loop of its own, which compilers turn into vector instructions
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            code[byte] = static_cast<std::uint8_t>((low[byte] >> 2 * (step % 4) & 3) | (high[byte] >> step % 8 & 1) << 2);
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
