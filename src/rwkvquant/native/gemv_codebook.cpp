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

// sum + sums of centroid * xq over the 32 columns, one a row.
//
// A 128-bit lane holds 4 rows, and its shuffle table the centroids of rows 0 and 1 at 0..7 and of rows 2 and 3 at 8..15.
// Codes are merged two at a time, at bits 0..2 and 4..6 of a byte; bit 3 of an index chooses the pair of rows.
inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    const __m512i tables = _mm512_loadu_si512(codebooks.pair), seven = _mm512_set1_epi8(7);
    const __m512i pair = _mm512_set4_epi32(0x08080808, 0x08080808, 0, 0);
    Ints sums[2] = {sum, splat(0)};
    const auto step_of = [&](__m512i code, int step, int chain) {
        const __m512i centroids = _mm512_shuffle_epi8(tables, _mm512_ternarylogic_epi32(code, seven, pair, 0xEA));  // code & 7 | pair
        sums[chain] = _mm512_dpbusd_epi32(sums[chain], centroids, splat(load<std::int32_t>(xq + 4 * step)));
    };
    const auto two_steps = [&](__m512i low, __m512i high, int step) {
        const __m512i both = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8(0x33), 0xE4);  // mask ? low : high
        step_of(both, step, 0);
        step_of(_mm512_srli_epi16(both, 4), step + 4, 1);
    };
    const __m512i a = _mm512_loadu_si512(tile.low[0]), b = _mm512_loadu_si512(tile.low[1]);  // even, odd steps at bits 0, 2, 4, 6
    const __m512i high = _mm512_loadu_si512(tile.high[0]);                                    // step j at bit j
    two_steps(a, _mm512_slli_epi16(high, 2), 0);
    two_steps(b, _mm512_slli_epi16(high, 1), 1);
    two_steps(_mm512_srli_epi16(a, 2), high, 2);
    two_steps(_mm512_srli_epi16(b, 2), _mm512_srli_epi16(high, 1), 3);
    return _mm512_add_epi32(sums[0], sums[1]);
}

#elif defined(RWKVQUANT_AVX2)

// maddubs adds two byte products into 16 bits, saturating at 32767. Centroids are at most 127 and |xq| at most 128, so one pair
// stays below 2 * 127 * 128 = 32512, and two pairs would not: every step is widened. 8-bit centroids would have saturated.
static_assert(2 * 127 * 128 <= 32767 && 2 * 255 * 127 > 32767);

// The same for 8 rows, the half of each line that starts at byte `half`.
inline __m256i add_dot_half(__m256i sum, const Codebook3Tile& tile, std::size_t half, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    const auto line_of = [=](const std::uint8_t* line) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + half)); };
    const __m256i tables = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codebooks.pair[half / 8]));
    const __m256i pair = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808), ones = _mm256_set1_epi16(1);
    const auto step_of = [&](__m256i code, int step) {
        const __m256i centroids = _mm256_shuffle_epi8(tables, _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi8(7)), pair));
        const __m256i products = _mm256_maddubs_epi16(centroids, _mm256_set1_epi32(load<std::int32_t>(xq + 4 * step)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, ones));
    };
    const auto two_steps = [&](__m256i low, __m256i high, int step) {  // codes at bits 0..2 and 4..6
        const __m256i both = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x33)), _mm256_and_si256(high, _mm256_set1_epi8(0x44)));
        step_of(both, step);
        step_of(_mm256_srli_epi16(both, 4), step + 4);
    };
    const __m256i a = line_of(tile.low[0]), b = line_of(tile.low[1]), high = line_of(tile.high[0]);
    two_steps(a, _mm256_slli_epi16(high, 2), 0);
    two_steps(b, _mm256_slli_epi16(high, 1), 1);
    two_steps(_mm256_srli_epi16(a, 2), high, 2);
    two_steps(_mm256_srli_epi16(b, 2), _mm256_srli_epi16(high, 1), 3);
    return sum;
}

inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    return {add_dot_half(sum.top, tile, 0, codebooks, xq), add_dot_half(sum.bottom, tile, 32, codebooks, xq)};
}

#else

inline Ints add_dot(Ints sum, const Codebook3Tile& tile, const Codebook3Tables& codebooks, const std::int8_t* xq) {
    for (int step = 0; step < 8; ++step) {
        const std::uint8_t *low = tile.low[step % 2], *high = tile.high[0];
        std::uint8_t code[kStepBytes];  // decoded in a loop of its own, which compilers turn into vector instructions
        for (std::size_t byte = 0; byte < kStepBytes; ++byte) {
            code[byte] = static_cast<std::uint8_t>((low[byte] >> 2 * (step / 2) & 3) | (high[byte] >> step & 1) << 2);
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
