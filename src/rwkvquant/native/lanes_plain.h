// lanes.h in plain C++: arrays and loops, which compilers turn into the vector instructions of the CPU.
#pragma once

#define RWKVQUANT_ALWAYS
#include "lanes_base.h"

namespace rwkvquant::RWKVQUANT_BODY {

struct Ints {
    std::int32_t row[kTileRows];
};
struct Floats {
    float row[kTileRows];
};
struct Bytes {
    std::uint8_t byte[kStepBytes];
};

template <typename Result, typename Function>
RWKVQUANT_INLINE Result each_row(Function function) {
    Result result;
    for (std::size_t r = 0; r < kTileRows; ++r) result.row[r] = function(r);
    return result;
}
template <typename Function>
RWKVQUANT_INLINE Bytes each_byte(Function function) {
    Bytes result;
    for (std::size_t i = 0; i < kStepBytes; ++i) result.byte[i] = static_cast<std::uint8_t>(function(i));
    return result;
}

RWKVQUANT_INLINE Ints splat(std::int32_t value) {
    return each_row<Ints>([=](std::size_t) { return value; });
}
RWKVQUANT_INLINE Floats splat(float value) {
    return each_row<Floats>([=](std::size_t) { return value; });
}
RWKVQUANT_INLINE Ints add(const Ints& a, const Ints& b) {
    return each_row<Ints>([&](std::size_t r) { return a.row[r] + b.row[r]; });
}
RWKVQUANT_INLINE Ints subtract(const Ints& a, const Ints& b) {
    return each_row<Ints>([&](std::size_t r) { return a.row[r] - b.row[r]; });
}
RWKVQUANT_INLINE Floats add(const Floats& a, const Floats& b) {
    return each_row<Floats>([&](std::size_t r) { return a.row[r] + b.row[r]; });
}
RWKVQUANT_INLINE Floats multiply(const Floats& a, const Floats& b) {
    return each_row<Floats>([&](std::size_t r) { return a.row[r] * b.row[r]; });
}
RWKVQUANT_INLINE Floats to_floats(const Ints& a) {
    return each_row<Floats>([&](std::size_t r) { return static_cast<float>(a.row[r]); });
}
template <int k>
RWKVQUANT_INLINE Ints times_power_of_two(const Ints& a) {
    return each_row<Ints>([&](std::size_t r) { return a.row[r] * (1 << k); });
}

RWKVQUANT_INLINE Floats floats_from(const float* from) { return load<Floats>(from); }
RWKVQUANT_INLINE Floats floats_from_u8(const std::uint8_t* from) {
    return each_row<Floats>([=](std::size_t r) { return static_cast<float>(from[r]); });
}
RWKVQUANT_INLINE Floats floats_from_bf16(const std::uint8_t* from) {
    return each_row<Floats>([=](std::size_t r) {
        const std::uint32_t bits = std::uint32_t{load<std::uint16_t>(from + 2 * r)} << 16;
        return load<float>(&bits);
    });
}
RWKVQUANT_INLINE Floats floats_from_f16(const std::uint8_t* from) {
    return each_row<Floats>([=](std::size_t r) { return float_from_f16(load<std::uint16_t>(from + 2 * r)); });
}
RWKVQUANT_INLINE Ints ints_from(const std::int32_t* from) { return load<Ints>(from); }
RWKVQUANT_INLINE void store(std::int32_t* out, const Ints& values) { std::memcpy(out, values.row, sizeof values.row); }
RWKVQUANT_INLINE void store(float* out, const Floats& values, std::size_t rows = kTileRows) {
    std::memcpy(out, values.row, rows * sizeof(float));
}

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from) { return load<Bytes>(from); }
RWKVQUANT_INLINE Bytes splat_byte(std::uint8_t value) {
    return each_byte([=](std::size_t) { return value; });
}
template <int k>
RWKVQUANT_INLINE Bytes shift(const Bytes& a) {
    return each_byte([&](std::size_t i) { return k > 0 ? a.byte[i] << (k > 0 ? k : 0) : a.byte[i] >> (k < 0 ? -k : 0); });
}
RWKVQUANT_INLINE Bytes mask(const Bytes& a, std::uint8_t m) {
    return each_byte([&](std::size_t i) { return a.byte[i] & m; });
}
RWKVQUANT_INLINE Bytes select(std::uint8_t m, const Bytes& a, const Bytes& b) {
    return each_byte([&](std::size_t i) { return (a.byte[i] & m) | (b.byte[i] & ~m); });
}
RWKVQUANT_INLINE Bytes index_of(const Bytes& code, std::uint8_t m, const Bytes& offset) {
    return each_byte([&](std::size_t i) { return (code.byte[i] & m) | offset.byte[i]; });
}
RWKVQUANT_INLINE Bytes lookup(const Bytes& tables, const Bytes& index) {
    return each_byte([&](std::size_t i) { return tables.byte[i / 16 * 16 + index.byte[i] % 16]; });
}
template <int c>
RWKVQUANT_INLINE Ints column(const Bytes& a) {
    return each_row<Ints>([&](std::size_t r) { return a.byte[4 * r + c]; });
}

struct Four {
    std::int32_t column[4];
};
RWKVQUANT_INLINE Four four_from(const std::int8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }

template <int bits>
RWKVQUANT_INLINE Ints dot(const Ints& sum, const Bytes& a, const Four& x) {
    return each_row<Ints>([&](std::size_t r) {
        const std::uint8_t* four = a.byte + 4 * r;
        return sum.row[r] + four[0] * x.column[0] + four[1] * x.column[1] + four[2] * x.column[2] + four[3] * x.column[3];
    });
}

template <int bits>
RWKVQUANT_INLINE Ints dot(const Ints& sum, const Bytes& a, const std::int8_t* x) {
    return dot<bits>(sum, a, four_from(x));
}

RWKVQUANT_INLINE Ints multiply_zeros(const Ints& zeros, std::int32_t factor) {
    return each_row<Ints>([&](std::size_t r) { return zeros.row[r] * factor; });
}

template <int bits>
RWKVQUANT_INLINE Ints zeros_of(const std::uint8_t* packed) {
    if constexpr (bits == 1 || bits == 2 || bits == 4) {
        return each_row<Ints>([=](std::size_t r) { return packed[r * bits / 8] >> r * bits % 8 & ((1 << bits) - 1); });
    } else {
        constexpr int kFirst = bits == 3 ? 2 : 4;
        return add(zeros_of<kFirst>(packed), times_power_of_two<kFirst>(zeros_of<bits - kFirst>(packed + 2 * kFirst)));
    }
}

namespace {

// Sums of code * x over a tile whose codes of `bits` <= 4 bits are two in a byte, at bits 0 and 4.
template <int bits>
struct NibbleSums {
    Ints sum;

    RWKVQUANT_INLINE_MEMBER explicit NibbleSums(const Ints& start) : sum(start) {}

    template <int chain>
    RWKVQUANT_INLINE_MEMBER void add_step(const Bytes& both, const std::int8_t* x_low, const std::int8_t* x_high) {
        constexpr std::uint8_t kCode = (1 << bits) - 1;
        sum = dot<bits>(dot<bits>(sum, mask(both, kCode), four_from(x_low)), mask(shift<-4>(both), kCode), four_from(x_high));
    }
    RWKVQUANT_INLINE_MEMBER Ints total() const { return sum; }
};

}  // namespace

RWKVQUANT_INLINE Bytes bytes_from(const std::uint8_t* from, std::size_t count) {
    Bytes result = {};
    std::memcpy(result.byte, from, count);
    return result;
}
template <int k>
RWKVQUANT_INLINE Bytes interleave(const Bytes& a, const Bytes& b, const Bytes& c, const Bytes& d) {
    const std::uint8_t* const lines[4] = {a.byte, b.byte, c.byte, d.byte};
    return each_byte([&](std::size_t i) { return lines[i % 4][i / 16 * 16 + 4 * k + i % 16 / 4]; });
}

struct UnsignedFour {
    std::int32_t column[4];
};
RWKVQUANT_INLINE UnsignedFour four_from(const std::uint8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
RWKVQUANT_INLINE Ints signed_dot(const Ints& sum, const UnsignedFour& x, const Bytes& entries) {
    return each_row<Ints>([&](std::size_t r) {
        std::int32_t total = sum.row[r];
        for (std::size_t c = 0; c < 4; ++c) total += x.column[c] * static_cast<std::int8_t>(entries.byte[4 * r + c]);
        return total;
    });
}

RWKVQUANT_INLINE std::size_t keep_nonzero(const Floats& values, std::uint32_t first, std::uint32_t* columns, float* to, std::size_t kept) {
    unsigned chosen = 0;
    for (std::size_t r = 0; r < kTileRows; ++r) chosen |= (values.row[r] != 0.0f ? 1u : 0u) << r;
    return keep_chosen(values.row, chosen, first, columns, to, kept);
}

struct Line {
    std::uint64_t words[8];
};
RWKVQUANT_INLINE Line line_from(const std::uint8_t* from) { return load<Line>(from); }
RWKVQUANT_INLINE Line mix(Line a, const Line& b) {
    for (int i = 0; i < 8; ++i) a.words[i] ^= b.words[i];
    return a;
}

// What was measured to be best for plain C++.
constexpr int kBlocks = 1, kVectors = 1;          // row-blocks and vectors multiplied together; each pair has a register of sums
constexpr int kDenseVectors = 1;                  // the same for a row of dense weights
constexpr int kEnough = 8;                        // sums at a time: with fewer, instructions wait for one another
constexpr bool kOneVectorLoop = false;            // whether one int8 vector has its own loop (product.h); plain C++ is bound by arithmetic
constexpr bool kSevenBitLoop = false;             // whether bytes below 128 are multiplied faster than all bytes
constexpr std::size_t kTablesAhead = 3072, kScalesAhead = 1024, kZerosAhead = 512;  // bytes to prefetch; for codes: prefetch.h
constexpr std::int32_t kEntryOffset = 0;          // added to the entries of its tables, where bytes must be unsigned
constexpr int kGroupPairs = 1;                    // of product_columnwise.cpp
constexpr std::size_t kStripsAhead = 4;           // from prefetching to decoding (product_decoded.cpp): 6 KiB a row-block at 3 bits

}  // namespace rwkvquant::RWKVQUANT_BODY

#include "tables_plain.h"
