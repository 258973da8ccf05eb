// lanes.h in NEON with dot products (armv8.2-a): four 128-bit registers, rows 0..3, 4..7, 8..11 and 12..15.
//
// `sdot` multiplies signed bytes, so it takes bytes below 128 as they are. RWKVQUANT_I8MM adds `usdot`, for bytes of 8 bits.
#pragma once

#include <arm_neon.h>

#define RWKVQUANT_ALWAYS __attribute__((always_inline))
#include "lanes_base.h"

#if !defined(__ARM_FEATURE_DOTPROD) || (defined(RWKVQUANT_I8MM) && !defined(__ARM_FEATURE_MATMUL_INT8))
#error "this body needs -march=armv8.2-a+dotprod, and +i8mm for RWKVQUANT_I8MM"
#endif

namespace rwkvquant::RWKVQUANT_BODY {

struct Ints {
    int32x4_t rows[4];
};
struct Floats {
    float32x4_t rows[4];
};
struct Bytes {
    uint8x16_t rows[4];
};

// function(0) .. function(3), without a loop: GCC 12 keeps in memory what a loop indexes.
template <typename Result, typename Function>
RWKVQUANT_INLINE Result each_four(const Function& function) {
    return {{function(Int<0>{}), function(Int<1>{}), function(Int<2>{}), function(Int<3>{})}};
}

RWKVQUANT_INLINE Ints splat(std::int32_t value) {
    return each_four<Ints>([&](auto) RWKVQUANT_ALWAYS { return vdupq_n_s32(value); });
}
RWKVQUANT_INLINE Floats splat(float value) {
    return each_four<Floats>([&](auto) RWKVQUANT_ALWAYS { return vdupq_n_f32(value); });
}
RWKVQUANT_INLINE Ints add(Ints a, Ints b) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return vaddq_s32(a.rows[i.v], b.rows[i.v]); });
}
RWKVQUANT_INLINE Ints subtract(Ints a, Ints b) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return vsubq_s32(a.rows[i.v], b.rows[i.v]); });
}
RWKVQUANT_INLINE Floats add(Floats a, Floats b) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return vaddq_f32(a.rows[i.v], b.rows[i.v]); });
}
RWKVQUANT_INLINE Floats multiply(Floats a, Floats b) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return vmulq_f32(a.rows[i.v], b.rows[i.v]); });
}
RWKVQUANT_INLINE Floats to_floats(Ints a) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return vcvtq_f32_s32(a.rows[i.v]); });
}
template <int k>
RWKVQUANT_INLINE Ints times_power_of_two(Ints a) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return vshlq_n_s32(a.rows[i.v], k); });
}

RWKVQUANT_INLINE Floats floats_from(const float* from) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return load<float32x4_t>(from + 4 * i.v); });
}
RWKVQUANT_INLINE Floats floats_from_u8(const std::uint8_t* from) {
    const auto bytes = load<uint8x16_t>(from);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)), vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
             vcvtq_f32_u32(vmovl_high_u16(high))}};
}
RWKVQUANT_INLINE Floats floats_from_bf16(const std::uint8_t* from) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return vreinterpretq_f32_u32(vshll_n_u16(load<uint16x4_t>(from + 8 * i.v), 16)); });
}
RWKVQUANT_INLINE Floats floats_from_f16(const std::uint8_t* from) {
    return each_four<Floats>([&](auto i) RWKVQUANT_ALWAYS { return vcvt_f32_f16(load<float16x4_t>(from + 8 * i.v)); });
}
RWKVQUANT_INLINE Ints ints_from(const std::int32_t* from) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return load<int32x4_t>(from + 4 * i.v); });
}
RWKVQUANT_INLINE void store(std::int32_t* out, Ints values) { std::memcpy(out, &values, sizeof values); }
RWKVQUANT_INLINE void store(float* out, Floats values) { std::memcpy(out, &values, sizeof values); }
RWKVQUANT_INLINE void store(float* out, Floats values, std::size_t rows) {
    if (rows == kTileRows) return store(out, values);
    float all[kTileRows];
    store(all, values);
    std::memcpy(out, all, rows * sizeof(float));
}

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return load<uint8x16_t>(from + 16 * i.v); });
}
RWKVQUANT_INLINE Bytes splat_byte(std::uint8_t value) {
    return each_four<Bytes>([&](auto) RWKVQUANT_ALWAYS { return vdupq_n_u8(value); });
}
template <int k>
RWKVQUANT_INLINE Bytes shift(Bytes a) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS {
        if constexpr (k > 0) return vshlq_n_u8(a.rows[i.v], k);
        else if constexpr (k < 0) return vshrq_n_u8(a.rows[i.v], -k);
        else return a.rows[i.v];
    });
}
RWKVQUANT_INLINE Bytes mask(Bytes a, std::uint8_t m) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vandq_u8(a.rows[i.v], vdupq_n_u8(m)); });
}
RWKVQUANT_INLINE Bytes select(std::uint8_t m, Bytes a, Bytes b) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vbslq_u8(vdupq_n_u8(m), a.rows[i.v], b.rows[i.v]); });
}
RWKVQUANT_INLINE Bytes index_of(Bytes code, std::uint8_t m, Bytes offset) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vorrq_u8(vandq_u8(code.rows[i.v], vdupq_n_u8(m)), offset.rows[i.v]); });
}
// `tbl` gives 0 where an index is 16 or more; the other versions ignore bits 4 to 6.
RWKVQUANT_INLINE Bytes lookup(Bytes tables, Bytes index) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return vqtbl1q_u8(tables.rows[i.v], vandq_u8(index.rows[i.v], vdupq_n_u8(15))); });
}
template <int c>
RWKVQUANT_INLINE Ints column(Bytes a) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS {
        const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(a.rows[i.v]), vdupq_n_s32(-8 * c));
        return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32(255)));
    });
}

// The dot product instruction copies the first four bytes to all rows.
using Four = int8x8_t;
RWKVQUANT_INLINE Four four_from(const std::int8_t* x) { return vreinterpret_s8_s32(vset_lane_s32(load<std::int32_t>(x), vdup_n_s32(0), 0)); }

// Products are added in 32 bits: no sum is near 2^31. Without usdot, a byte of 8 bits is split: twice its upper seven bits, plus the
// lowest.
template <int bits>
RWKVQUANT_INLINE int32x4_t dot_rows(int32x4_t sum, uint8x16_t a, Four x) {
    if constexpr (bits < 8) return vdotq_lane_s32(sum, vreinterpretq_s8_u8(a), x, 0);
#if defined(RWKVQUANT_I8MM)
    return vusdotq_lane_s32(sum, a, x, 0);
#else
    const int8x16_t upper = vreinterpretq_s8_u8(vshrq_n_u8(a, 1)), lowest = vreinterpretq_s8_u8(vandq_u8(a, vdupq_n_u8(1)));
    return vdotq_lane_s32(vdotq_lane_s32(vdotq_lane_s32(sum, upper, x, 0), upper, x, 0), lowest, x, 0);
#endif
}
template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, Four x) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return dot_rows<bits>(sum.rows[i.v], a.rows[i.v], x); });
}

template <int bits>
RWKVQUANT_INLINE Ints dot(Ints sum, Bytes a, const std::int8_t* x) {
    return dot<bits>(sum, a, four_from(x));
}

RWKVQUANT_INLINE Ints multiply_zeros(Ints zeros, std::int32_t factor) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return vmulq_n_s32(zeros.rows[i.v], factor); });
}

// A plane of width p: four rows are 4 * p bits, with row r at bit p * r.
template <int p>
RWKVQUANT_INLINE Ints plane_zeros(const std::uint8_t* packed) {
    const std::int32_t places[4] = {0, -p, -2 * p, -3 * p};
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS {
        const std::uint8_t* from = packed + p * i.v / 2;
        const std::uint32_t word = p == 4 ? load<std::uint16_t>(from) : std::uint32_t{*from} >> (p * 4 * i.v % 8);
        return vreinterpretq_s32_u32(vandq_u32(vshlq_u32(vdupq_n_u32(word), load<int32x4_t>(places)), vdupq_n_u32((1 << p) - 1)));
    });
}
template <int bits>
RWKVQUANT_INLINE Ints zeros_of(const std::uint8_t* packed) {
    if constexpr (bits == 1 || bits == 2 || bits == 4) return plane_zeros<bits>(packed);
    else if constexpr (bits == 3) return add(plane_zeros<2>(packed), times_power_of_two<2>(plane_zeros<1>(packed + 4)));
    else return add(plane_zeros<4>(packed), times_power_of_two<4>(zeros_of<bits - 4>(packed + 8)));
}

namespace {

// Sums of code * x over a tile whose codes of `bits` <= 4 bits are two in a byte, at bits 0 and 4. Up to 3 bits the upper ones stay
// there, below 128, so their sums are 16 times too large until the end. With 4 bits they are shifted by bytes, which needs no mask.
template <int bits>
struct NibbleSums {
    static constexpr bool kStay = bits < 4;
    static constexpr std::uint8_t kCode = (1 << bits) - 1;
    Ints low, high = splat(0);

    RWKVQUANT_INLINE_MEMBER explicit NibbleSums(Ints start) : low(start) {}

    template <int chain>
    RWKVQUANT_INLINE_MEMBER void add_step(Bytes both, const std::int8_t* x_low, const std::int8_t* x_high) {
        low = dot<7>(low, mask(both, kCode), four_from(x_low));
        high = dot<7>(high, kStay ? mask(both, kCode << 4) : shift<-4>(both), four_from(x_high));
    }
    RWKVQUANT_INLINE_MEMBER Ints total() const {
        if constexpr (!kStay) return add(low, high);
        return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS { return vsraq_n_s32(low.rows[i.v], high.rows[i.v], 4); });
    }
};

}  // namespace

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from, std::size_t count) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS { return 16 * i.v < count ? load<uint8x16_t>(from + 16 * i.v) : vdupq_n_u8(0); });
}
template <int k>
RWKVQUANT_INLINE Bytes interleave(const Bytes& a, const Bytes& b, const Bytes& c, const Bytes& d) {
    return each_four<Bytes>([&](auto i) RWKVQUANT_ALWAYS {
        const uint8x16_t ab = k < 2 ? vzip1q_u8(a.rows[i.v], b.rows[i.v]) : vzip2q_u8(a.rows[i.v], b.rows[i.v]);
        const uint8x16_t cd = k < 2 ? vzip1q_u8(c.rows[i.v], d.rows[i.v]) : vzip2q_u8(c.rows[i.v], d.rows[i.v]);
        const uint16x8_t first = vreinterpretq_u16_u8(ab), second = vreinterpretq_u16_u8(cd);
        return vreinterpretq_u8_u16(k % 2 == 0 ? vzip1q_u16(first, second) : vzip2q_u16(first, second));
    });
}

// Entries are 64 too large (kEntryOffset), so that they are unsigned: 0..128. Sums of 2^17 columns stay below 2^32.
using UnsignedFour = uint8x8_t;
RWKVQUANT_INLINE UnsignedFour four_from(const std::uint8_t* x) {
    return vreinterpret_u8_u32(vset_lane_u32(load<std::uint32_t>(x), vdup_n_u32(0), 0));
}
RWKVQUANT_INLINE Ints signed_dot(const Ints& sum, UnsignedFour x, const Bytes& entries) {
    return each_four<Ints>([&](auto i) RWKVQUANT_ALWAYS {
        return vreinterpretq_s32_u32(vdotq_lane_u32(vreinterpretq_u32_s32(sum.rows[i.v]), entries.rows[i.v], x, 0));
    });
}

RWKVQUANT_INLINE std::size_t keep_nonzero(const Floats& values, std::uint32_t first, std::uint32_t* columns, float* to, std::size_t kept) {
    float all[kTileRows];
    store(all, values);
    unsigned chosen = 0;
    for (unsigned r = 0; r < kTileRows; ++r) chosen |= (all[r] != 0.0f ? 1u : 0u) << r;
    return keep_chosen(all, chosen, first, columns, to, kept);
}

// What was measured to be best for NEON.
constexpr int kBlocks = 1, kVectors = 4;          // row-blocks and vectors multiplied together; each pair has a register of sums
constexpr int kDenseVectors = 1;                  // the same for a row of dense weights
constexpr int kEnough = 2;                        // sums at a time: with fewer, they wait for one another; each is four of 32 registers
constexpr bool kOneVectorLoop = true;             // whether one int8 vector has its own loop (product.h)
constexpr bool kSevenBitLoop = true;              // whether bytes below 128 are multiplied faster than all bytes
constexpr std::size_t kTablesAhead = 3072, kScalesAhead = 1024, kZerosAhead = 512;  // bytes to prefetch; for codes: prefetch.h
constexpr std::int32_t kEntryOffset = 64;         // added to the entries of its tables, because udot multiplies unsigned bytes
constexpr int kGroupPairs = 1;                    // of product_columnwise.cpp: 4 sums each, 16 registers
constexpr std::size_t kStripsAhead = 4;           // from prefetching to decoding (product_decoded.cpp): 6 KiB a row-block at 3 bits

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "tables_neon.h"
