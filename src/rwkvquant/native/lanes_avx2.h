// lanes.h in AVX2: two 256-bit registers, rows 0..7 and rows 8..15. RWKVQUANT_DOT is the header of dot
// products: dot_maddubs.h, or another that lanes_avxvnni.h names.
#pragma once

#include <immintrin.h>

#define RWKVQUANT_ALWAYS __attribute__((always_inline))
#include "lanes_base.h"

#if !defined(__AVX2__) || !defined(__F16C__)
#error "this body needs -mavx2 and -mf16c"
#endif
#if !defined(RWKVQUANT_DOT)
#define RWKVQUANT_DOT "dot_maddubs.h"
#endif

namespace rwkvquant::RWKVQUANT_BODY {

struct Ints {
    __m256i top, bottom;
};
struct Floats {
    __m256 top, bottom;
};
struct Bytes {
    __m256i top, bottom;
};

RWKVQUANT_INLINE Ints splat(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
RWKVQUANT_INLINE Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
RWKVQUANT_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.top, b.top), _mm256_add_epi32(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Ints subtract(Ints a, Ints b) { return {_mm256_sub_epi32(a.top, b.top), _mm256_sub_epi32(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.top, b.top), _mm256_add_ps(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats multiply(Floats a, Floats b) { return {_mm256_mul_ps(a.top, b.top), _mm256_mul_ps(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.top), _mm256_cvtepi32_ps(a.bottom)}; }
template <int k>
RWKVQUANT_INLINE Ints times_power_of_two(Ints a) {
    return {_mm256_slli_epi32(a.top, k), _mm256_slli_epi32(a.bottom, k)};
}

RWKVQUANT_INLINE Floats floats_from(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
RWKVQUANT_INLINE Floats floats_from_u8(const std::uint8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return to_floats({_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))});
}
RWKVQUANT_INLINE __m256 half_from_bf16(const std::uint8_t* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load<__m128i>(from)), 16));
}
RWKVQUANT_INLINE Floats floats_from_bf16(const std::uint8_t* from) { return {half_from_bf16(from), half_from_bf16(from + 16)}; }
RWKVQUANT_INLINE Floats floats_from_f16(const std::uint8_t* from) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
RWKVQUANT_INLINE void store(float* out, Floats values) {
    _mm256_storeu_ps(out, values.top);
    _mm256_storeu_ps(out + 8, values.bottom);
}
RWKVQUANT_INLINE void store(float* out, Floats values, std::size_t rows) {
    float all[kTileRows];
    store(all, values);
    std::memcpy(out, all, rows * sizeof(float));
}

RWKVQUANT_INLINE __m256i half_from(const std::uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from) { return {half_from(from), half_from(from + 32)}; }
RWKVQUANT_INLINE __m256i splat_half(std::uint8_t value) { return _mm256_set1_epi8(static_cast<char>(value)); }
RWKVQUANT_INLINE Bytes splat_byte(std::uint8_t value) { return {splat_half(value), splat_half(value)}; }
template <int k>
RWKVQUANT_INLINE Bytes shift(Bytes a) {
    if constexpr (k > 0) return {_mm256_slli_epi16(a.top, k), _mm256_slli_epi16(a.bottom, k)};
    if constexpr (k < 0) return {_mm256_srli_epi16(a.top, -k), _mm256_srli_epi16(a.bottom, -k)};
    return a;
}
RWKVQUANT_INLINE Bytes mask(Bytes a, std::uint8_t m) {
    return {_mm256_and_si256(a.top, splat_half(m)), _mm256_and_si256(a.bottom, splat_half(m))};
}
RWKVQUANT_INLINE Bytes bits_or(Bytes a, Bytes b) { return {_mm256_or_si256(a.top, b.top), _mm256_or_si256(a.bottom, b.bottom)}; }
RWKVQUANT_INLINE Bytes select(std::uint8_t m, Bytes a, Bytes b) {
    return bits_or(mask(a, m), mask(b, static_cast<std::uint8_t>(~m)));
}
RWKVQUANT_INLINE Bytes index_of(Bytes code, std::uint8_t m, Bytes offset) { return bits_or(mask(code, m), offset); }
RWKVQUANT_INLINE Bytes lookup(Bytes tables, Bytes index) {
    return {_mm256_shuffle_epi8(tables.top, index.top), _mm256_shuffle_epi8(tables.bottom, index.bottom)};
}
template <int c>
RWKVQUANT_INLINE Ints column(Bytes a) {
    const __m256i byte = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(a.top, 8 * c), byte), _mm256_and_si256(_mm256_srli_epi32(a.bottom, 8 * c), byte)};
}

}  // namespace rwkvquant::RWKVQUANT_BODY

#include RWKVQUANT_DOT

namespace rwkvquant::RWKVQUANT_BODY {

RWKVQUANT_INLINE Ints multiply_zeros(Ints zeros, std::int32_t factor) {
    const __m256i both = _mm256_set1_epi32(factor);
    return {_mm256_madd_epi16(zeros.top, both), _mm256_madd_epi16(zeros.bottom, both)};
}

// Eight rows of a plane of width p, each at bit p * row of `word`.
template <int p>
RWKVQUANT_INLINE __m256i plane_zeros(std::uint32_t word) {
    const __m256i places = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(p));
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), places), _mm256_set1_epi32((1 << p) - 1));
}
RWKVQUANT_INLINE Ints bits_or(Ints a, Ints b) { return {_mm256_or_si256(a.top, b.top), _mm256_or_si256(a.bottom, b.bottom)}; }

template <int bits>
RWKVQUANT_INLINE Ints zeros_of(const std::uint8_t* packed) {
    if constexpr (bits == 1) return {plane_zeros<1>(packed[0]), plane_zeros<1>(packed[1])};
    if constexpr (bits == 2) return {plane_zeros<2>(load<std::uint16_t>(packed)), plane_zeros<2>(load<std::uint16_t>(packed + 2))};
    if constexpr (bits == 3) return bits_or(zeros_of<2>(packed), times_power_of_two<2>(zeros_of<1>(packed + 4)));
    if constexpr (bits == 4) return {plane_zeros<4>(load<std::uint32_t>(packed)), plane_zeros<4>(load<std::uint32_t>(packed + 4))};
    if constexpr (bits > 4) return bits_or(zeros_of<4>(packed), times_power_of_two<4>(zeros_of<bits - 4>(packed + 8)));
}

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from, std::size_t count) {
    if (count == kStepBytes) return bytes_from(from);
    const __m256i zero = _mm256_setzero_si256();
    if (count == 48) return {half_from(from), _mm256_castsi128_si256(load<__m128i>(from + 32))};
    return {count == 32 ? half_from(from) : _mm256_inserti128_si256(zero, load<__m128i>(from), 0), zero};
}
template <int k>
RWKVQUANT_INLINE __m256i interleave_half(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = k < 2 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
    const __m256i cd = k < 2 ? _mm256_unpacklo_epi8(c, d) : _mm256_unpackhi_epi8(c, d);
    return k % 2 == 0 ? _mm256_unpacklo_epi16(ab, cd) : _mm256_unpackhi_epi16(ab, cd);
}
template <int k>
RWKVQUANT_INLINE Bytes interleave(Bytes a, Bytes b, Bytes c, Bytes d) {
    return {interleave_half<k>(a.top, b.top, c.top, d.top), interleave_half<k>(a.bottom, b.bottom, c.bottom, d.bottom)};
}

RWKVQUANT_INLINE std::size_t keep_nonzero(Floats values, std::uint32_t first, std::uint32_t* columns, float* to, std::size_t kept) {
    const auto nonzero = [](__m256 half) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(half, _mm256_setzero_ps(), _CMP_NEQ_UQ)));
    };
    float all[kTileRows];
    store(all, values);
    return keep_chosen(all, nonzero(values.top) | nonzero(values.bottom) << 8, first, columns, to, kept);
}

using Line = Bytes;
RWKVQUANT_INLINE Line mix(Line a, Line b) { return {_mm256_xor_si256(a.top, b.top), _mm256_xor_si256(a.bottom, b.bottom)}; }

// What was measured to be best for AVX2.
constexpr int kBlocks = 1, kVectors = 4;          // row-blocks and vectors multiplied together; each pair has a register of sums
constexpr int kDenseVectors = 1;                  // the same for a row of dense weights
constexpr int kEnough = 8;                        // sums at a time: with fewer, instructions wait for one another
constexpr bool kOneVectorLoop = true;             // whether one int8 vector has its own loop (product.h)
constexpr std::size_t kTablesAhead = 3072, kScalesAhead = 1024, kZerosAhead = 512;  // bytes to prefetch; for codes: prefetch.h
constexpr std::int32_t kEntryOffset = 0;          // added to the entries of its tables, where bytes must be unsigned
constexpr int kGroupPairs = 1;                    // of product_columnwise.cpp: 4 sums each, 8 registers
constexpr std::size_t kStripsAhead = 4;           // from prefetching to decoding (product_decoded.cpp): 6 KiB a row-block at 3 bits

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "table_places.h"

namespace rwkvquant::RWKVQUANT_BODY {

template <std::size_t>
RWKVQUANT_INLINE Bytes spread_fours(const std::uint8_t* tile, std::size_t tile_bytes, const std::int32_t* source) {
    if (tile_bytes == kStepBytes) return bytes_from(tile);
    const __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(tile_bytes / 4)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i fours = _mm256_maskload_epi32(reinterpret_cast<const int*>(tile), present);
    return {_mm256_permutevar8x32_epi32(fours, load<__m256i>(source)), _mm256_permutevar8x32_epi32(fours, load<__m256i>(source + 8))};
}

namespace {

// Rank at most `most`, 4 or 8. One dot product of two 16-bit numbers: coefficients are in the upper byte, 256 times too large, and the
// shift corrects that. |sum| <= 256 * 8 * 2^14 = 2^25.
template <int bits, bool two_tables, int most>
class CompressedTables : public TablePlaces<bits, two_tables> {
    using Places = TablePlaces<bits, two_tables>;
    static constexpr int kQuarters = static_cast<int>(Places::kUsed / 4), kTwos = most / 2;
    static constexpr int kTables = two_tables ? 2 : 1;  // of a lane

  public:
    using Places::tile_bytes;

    explicit CompressedTables(const Codebook& matrix)
        : Places(matrix.coefficients, matrix, static_cast<std::size_t>(matrix.rank)),
          places(_mm_cvtsi32_si128(matrix.shift + 8)) {
        const auto rank = static_cast<std::size_t>(matrix.rank);
        for (std::size_t lane = 0; lane < 4; ++lane) lane_begins[lane] = Places::table(lane, 0, matrix.group_rows) * rank;
        for (std::size_t table = 0; table < kTables; ++table) {
            for (std::size_t two = 0; two < kTwos; ++two) {
                std::uint8_t byte[16];
                for (std::size_t i = 0; i < 16; ++i) {
                    const std::size_t r = 2 * two + i % 4 / 2;
                    byte[i] = static_cast<std::uint8_t>(i % 2 == 1 && r < rank ? table * rank + r : 0x80);  // 0x80: zero
                }
                bytes[table][two] = _mm256_broadcastsi128_si256(load<__m128i>(byte));
            }
        }
        const auto* basis_of = reinterpret_cast<const std::int8_t*>(matrix.basis);
        for (std::size_t quarter = 0; quarter < kQuarters; ++quarter) {
            std::int16_t rows[kTwos][4][2] = {};  // of four entries, two ranks side by side
            for (std::size_t k = 0; k < 4; ++k) {
                for (std::size_t r = 0; r < rank; ++r) rows[r / 2][k][r % 2] = basis_of[r * Places::kEntries + Places::entry(4 * quarter + k)];
            }
            for (std::size_t two = 0; two < kTwos; ++two) basis[quarter][two] = _mm256_broadcastsi128_si256(load<__m128i>(rows[two]));
        }
        start = _mm256_set1_epi32(((1 << matrix.shift >> 1) + (kCentroidZero << matrix.shift)) * 256);
    }

    RWKVQUANT_INLINE_MEMBER Bytes of_tile(const std::uint8_t* tile) const {
        std::uint8_t bytes_of_tile[kStepBytes + 16];  // a copy, because lanes are read 16 bytes at a time, and the array may end before
        copy(bytes_of_tile, tile);
        return {half(bytes_of_tile, 0), half(bytes_of_tile, 2)};
    }

  private:
    RWKVQUANT_INLINE_MEMBER void copy(std::uint8_t* to, const std::uint8_t* from) const {
        std::size_t at = 0;
        for (; at + 16 <= tile_bytes; at += 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), load<__m128i>(from + at));
        for (; at < tile_bytes; ++at) to[at] = from[at];
    }
    RWKVQUANT_INLINE_MEMBER __m256i half(const std::uint8_t* from, std::size_t lane) const {
        const __m256i lanes = _mm256_setr_m128i(load<__m128i>(from + lane_begins[lane]), load<__m128i>(from + lane_begins[lane + 1]));
        __m256i entries[kQuarters];
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            __m256i total = start;
            for (int two = 0; two < kTwos; ++two) {
                const __m256i of_table = _mm256_shuffle_epi8(lanes, bytes[4 * quarter >> bits][two]);
                total = _mm256_add_epi32(total, _mm256_madd_epi16(of_table, basis[quarter][two]));
            }
            entries[quarter] = _mm256_sra_epi32(total, places);
        }
        const __m256i low = _mm256_packs_epi32(entries[0], entries[1 % kQuarters]);
        const __m256i high = kQuarters == 4 ? _mm256_packs_epi32(entries[2 % kQuarters], entries[3 % kQuarters]) : low;
        return _mm256_max_epi8(_mm256_packs_epi16(low, high), _mm256_setzero_si256());  // 64 is in `start`: 0..127
    }

    std::size_t lane_begins[4];
    __m128i places;
    __m256i bytes[kTables][kTwos], basis[kQuarters][kTwos], start;
};

template <int bits>
class PairTables : PairEntries<bits, false> {
    using Entries = PairEntries<bits, false>;
    using Entries::kEntries, Entries::pairs;

  public:
    using Entries::Entries;

    // For each component: a shuffle looks up 16 entries, and the upper bits of the code choose among the shuffles. Then both components
    // side by side, row by row.
    RWKVQUANT_INLINE_MEMBER void look_up(Bytes codes, Bytes* step) const {
        half(codes.top, step[0].top, step[1].top);
        half(codes.bottom, step[0].bottom, step[1].bottom);
    }

  private:
    RWKVQUANT_INLINE_MEMBER void half(__m256i code, __m256i& left, __m256i& right) const {
        const __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15)), high = _mm256_and_si256(_mm256_srli_epi16(code, 4), _mm256_set1_epi8(15));
        __m256i component[2];
        for (std::size_t c = 0; c < 2; ++c) component[c] = _mm256_shuffle_epi8(table(c, 0), low);
        for (std::size_t sixteen = 1; sixteen < kEntries / 16; ++sixteen) {
            const __m256i here = _mm256_cmpeq_epi8(high, _mm256_set1_epi8(static_cast<char>(sixteen)));
            for (std::size_t c = 0; c < 2; ++c) {
                component[c] = _mm256_blendv_epi8(component[c], _mm256_shuffle_epi8(table(c, sixteen), low), here);
            }
        }
        const __m256 two_rows = _mm256_castsi256_ps(_mm256_unpacklo_epi8(component[0], component[1]));  // eight columns of each
        const __m256 next_two = _mm256_castsi256_ps(_mm256_unpackhi_epi8(component[0], component[1]));
        left = _mm256_castps_si256(_mm256_shuffle_ps(two_rows, next_two, 0x88));
        right = _mm256_castps_si256(_mm256_shuffle_ps(two_rows, next_two, 0xDD));
    }
    RWKVQUANT_INLINE_MEMBER __m256i table(std::size_t component, std::size_t sixteen) const {
        return _mm256_broadcastsi128_si256(load<__m128i>(pairs + component * kEntries + 16 * sixteen));
    }
};

}  // namespace

}  // namespace rwkvquant::RWKVQUANT_BODY
