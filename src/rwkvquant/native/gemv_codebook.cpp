// y = W x for codebook3.t16x32 and int8 activations; the definition, with its order of rounding, is kernels/gemv_codebook.py.
//
//     isum[r]  = sum over 64 columns of (centroid[code] - 64) * xq      exact, in integers; two tiles, one at an odd end
//     y[r]    += float(isum[r]) * xscale                                activation groups from left to right
//     y[r]    *= row_scale[r]
#include "lanes.h"
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kTileCols = 32;

#if defined(RWKVQUANT_AVX512)

// (16 rows x 4 columns) centroids of one step, one a byte: a 128-bit lane holds 4 rows, and its shuffle table the centroids of
// rows 0 and 1 at 0..7 and of rows 2 and 3 at 8..15.
template <int step>
inline __m512i centroids_of(const Codebook3Tile& tile, __m512i tables) {
    constexpr int low_shift = 2 * (step % 4), high_shift = step - 2;
    const __m512i low = _mm512_srli_epi16(_mm512_loadu_si512(tile.low[step / 4]), low_shift);
    const __m512i line = _mm512_loadu_si512(tile.high[0]);
    const __m512i high = high_shift < 0 ? _mm512_slli_epi16(line, high_shift < 0 ? -high_shift : 0)
                                        : _mm512_srli_epi16(line, high_shift < 0 ? 0 : high_shift);
    const __m512i merged = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(3), 0xE4);  // mask ? low : high
    const __m512i pair = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0808080808080808, 0));
    const __m512i index = _mm512_ternarylogic_epi32(merged, _mm512_set1_epi8(7), pair, 0xEA);  // merged & 7 | pair
    return _mm512_shuffle_epi8(tables, index);
}

template <int... step>
inline Ints dot_steps(const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq, Ints sum) {
    const __m512i tables = _mm512_loadu_si512(codebooks.pair);
    Ints sums[2] = {sum, splat(0)};
    ((sums[step % 2] =
          _mm512_dpbusd_epi32(sums[step % 2], centroids_of<step>(tile, tables), splat(load<std::int32_t>(xq + 4 * step)))),
     ...);
    return _mm512_add_epi32(sums[0], sums[1]);
}

// sum + sums of centroid * xq over the 32 columns, one a row.
inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    return dot_steps<0, 1, 2, 3, 4, 5, 6, 7>(tile, codebooks, xq, sum);
}

#elif defined(RWKVQUANT_AVX2)

// (8 rows x 4 columns) centroids of one half of a step, one a byte.
template <int step>
inline __m256i centroids_of(const Codebook3Tile& tile, std::size_t half, __m256i tables) {
    constexpr int low_shift = 2 * (step % 4), high_shift = step - 2;
    const auto* low_line = reinterpret_cast<const __m256i*>(tile.low[step / 4] + half);
    const auto* high_line = reinterpret_cast<const __m256i*>(tile.high[0] + half);
    const __m256i low = _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256(low_line), low_shift), _mm256_set1_epi8(3));
    const __m256i line = _mm256_loadu_si256(high_line);
    const __m256i high = high_shift < 0 ? _mm256_slli_epi16(line, high_shift < 0 ? -high_shift : 0)
                                        : _mm256_srli_epi16(line, high_shift < 0 ? 0 : high_shift);
    const __m256i pair = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808);
    const __m256i index = _mm256_or_si256(_mm256_or_si256(low, pair), _mm256_and_si256(high, _mm256_set1_epi8(4)));
    return _mm256_shuffle_epi8(tables, index);
}

// maddubs adds two byte products into 16 bits, saturating at 32767. Centroids are at most 127 and |xq| at most 128, so one pair
// stays below 2 * 127 * 128 = 32512, and two pairs would not: every step is widened. 8-bit centroids would have saturated.
static_assert(2 * 127 * 128 <= 32767 && 2 * 255 * 127 > 32767);

template <int... step>
inline __m256i dot_half(const Codebook3Tile& tile, std::size_t half, const Codebook3Tables& codebooks, const std::int8_t* xq,
                        __m256i sum) {
    const __m256i tables = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codebooks.pair[half / 8]));
    const __m256i ones = _mm256_set1_epi16(1);
    ((sum = _mm256_add_epi32(
          sum, _mm256_madd_epi16(_mm256_maddubs_epi16(centroids_of<step>(tile, half, tables),
                                                      _mm256_set1_epi32(load<std::int32_t>(xq + 4 * step))),
                                 ones))),
     ...);
    return sum;
}

inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    return {dot_half<0, 1, 2, 3, 4, 5, 6, 7>(tile, 0, codebooks, xq, sum.top),
            dot_half<0, 1, 2, 3, 4, 5, 6, 7>(tile, 32, codebooks, xq, sum.bottom)};
}

#else

inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    for (int step = 0; step < 8; ++step) {
        const std::uint8_t *low = tile.low[step / 4], *high = tile.high[0];
        std::uint8_t code[kStepBytes];  // decoded in a loop of its own, which compilers turn into vector instructions
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            code[byte] = static_cast<std::uint8_t>((low[byte] >> 2 * (step % 4) & 3) | (high[byte] >> step & 1) << 2);
        }
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            const std::size_t row = byte / 4;
            sum.row[row] += codebooks.pair[row / 2][code[byte]] * xq[4 * step + byte % 4];
        }
    }
    return sum;
}

#endif

}  // namespace

void gemv_codebook(const std::uint8_t* codes, const std::uint8_t* codebooks, const std::uint8_t* row_scale, const std::int8_t* xq,
                   const std::uint8_t* xscale, const std::int32_t* xsum, std::size_t rows, std::size_t cols, float* out) {
    const std::size_t tiles = (cols + kTileCols - 1) / kTileCols, groups = (tiles + 1) / 2;
    const auto* tile = reinterpret_cast<const Codebook3Tile*>(codes);
    const auto* tables = reinterpret_cast<const Codebook3Tables*>(codebooks);
    constexpr std::size_t kCodesAhead = 8192, kTablesAhead = 3072;

    for (std::size_t row = 0; row < rows; row += kTileRows, row_scale += 2 * kTileRows) {
        Floats y = splat(0.0f);
        for (std::size_t g = 0; g < groups; ++g) {
            prefetch<2 * sizeof *tile>(tile, kCodesAhead);
            prefetch<2 * sizeof *tables>(tables, kTablesAhead);
            const std::int8_t* x = xq + kActivationGroup * g;
            Ints isum = splat(-kCentroidZero * xsum[g]);
            isum = add_dot(isum, *tile++, *tables++, x);
            if (2 * g + 1 < tiles) isum = add_dot(isum, *tile++, *tables++, x + kTileCols);
            y = add(y, multiply(to_floats(isum), splat(load<float>(xscale + 4 * g))));
        }
        store(out + row, multiply(y, floats_from_f16(row_scale)), rows - row < kTileRows ? rows - row : kTileRows);
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
