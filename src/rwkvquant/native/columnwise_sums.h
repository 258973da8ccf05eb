// The loops that add columns to the sums of a chunk.
#pragma once

#include "columnwise_list.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kPass = 16;  // vectors that share a block of columns in the cache: 64 KiB of sums
constexpr std::size_t kAhead = 2;  // strips from asking for memory to using it
constexpr std::size_t kQuad = 4, kStripQuads = 16, kStripColumns = kQuad * kStripQuads;

// Groups j and j + 4 of interleaved or single columns, at bits 0 and 4 of each byte; the other bits may be anything.
template <int bits, int j>
RWKVQUANT_INLINE Bytes two_groups(const Bytes* line) {
    if constexpr (bits == 3) return select(0x33, two_groups<2, j>(line), shift<2 - j>(line[2]));
    else return shift<-bits * (j / bits)>(line[j % bits]);
}

// Whether two_groups of `first` to `first + count - 1` read line h.
template <int bits>
constexpr bool reads_line(int h, int first, int count) {
    if (bits == 3 && h == 2) return true;
    for (int j = first; j < first + count; ++j) {
        if (j % (bits == 3 ? 2 : bits) == h) return true;
    }
    return false;
}

// Up to 64 columns of one chunk, four at a time.
struct Strip {
    const std::uint8_t* column[kStripColumns];  // where each begins
    const std::uint8_t *high, *low;             // their activations
    std::size_t quads, section;
    int bits;                                   // 0: nothing is to be added
    std::uint8_t last[kHalves][kStripColumns];  // activations of a short strip, with zeros after them
};

// Entries of four columns, group j of quarter k, and group j + 4.
template <int bits, int j>
RWKVQUANT_INLINE void look_up(Bytes table, const Bytes* line, Bytes* weights) {
    constexpr std::uint8_t kCode = (1 << bits) - 1;
    const Bytes both = two_groups<bits, j>(line);
    weights[0] = lookup(table, mask(both, kCode));
    weights[1] = lookup(table, mask(shift<-4>(both), kCode));
}

// Quarter k of four columns of a chunk: byte 4(4P + m) + c of each line is byte 16P + 4k + m of column c.
template <int bits, bool whole, int k, int first, int pairs>
RWKVQUANT_INLINE void interleaved_lines(const std::uint8_t* const* column, std::size_t line_bytes, Bytes* line) {
    unroll<bits>([&](auto index) RWKVQUANT_ALWAYS {
        constexpr int h = decltype(index)::v;
        if constexpr (reads_line<bits>(h, first, pairs)) {
            const std::size_t at = h * (whole ? kStepBytes : line_bytes);
            const auto line_of = [&](int c) RWKVQUANT_ALWAYS {
                return whole ? bytes_from(column[c] + at) : bytes_from(column[c] + at, line_bytes);
            };
            line[h] = interleave<k>(line_of(0), line_of(1), line_of(2), line_of(3));
        }
    });
}

// Adds quarter k and groups first .. first + pairs - 1, and those 4 further, of a strip. Meanwhile it asks for a quarter of the strip `next`.
template <int bits, bool whole, int k, int first, int pairs>
void add_quarter(const Strip& strip, std::size_t line_bytes, Bytes table, std::int32_t* sums, const Strip* next) {
    std::int32_t* const at = sums + k * kGroups * kHalves * kTileRows;
    const auto place = [&](int pair, int nibble, int half) { return at + ((first + pair + 4 * nibble) * kHalves + half) * kTileRows; };
    Ints sum[pairs][2][kHalves];
    unroll<pairs * 4>([&](auto i) RWKVQUANT_ALWAYS {
        sum[i.v / 4][i.v / 2 % 2][i.v % 2] = ints_from(place(i.v / 4, i.v / 2 % 2, i.v % 2));
    });
    const std::size_t quads = strip.quads;
    const std::uint8_t *const *column = strip.column, *const *ahead = next->column + kStripQuads * k;
    const std::uint8_t *high_of = strip.high, *low_of = strip.low;
    for (std::size_t quad = 0; quad < quads; ++quad, column += kQuad, high_of += kQuad, low_of += kQuad) {
        if constexpr (first == 0) {
            const std::uint8_t* soon = ahead[quad];
            unroll<bits>([&](auto h) RWKVQUANT_ALWAYS { __builtin_prefetch(soon + h.v * kStepBytes, 0, 2); });
        }
        Bytes line[bits];
        interleaved_lines<bits, whole, k, first, pairs>(column, line_bytes, line);
        const UnsignedFour high = four_from(high_of), low = four_from(low_of);
        unroll<pairs>([&](auto pair) RWKVQUANT_ALWAYS {
            Bytes weights[2];
            look_up<bits, first + decltype(pair)::v>(table, line, weights);
            unroll<2>([&](auto nibble) RWKVQUANT_ALWAYS {
                sum[pair.v][nibble.v][0] = signed_dot(sum[pair.v][nibble.v][0], high, weights[nibble.v]);
                sum[pair.v][nibble.v][1] = signed_dot(sum[pair.v][nibble.v][1], low, weights[nibble.v]);
            });
        });
    }
    unroll<pairs * 4>([&](auto i) RWKVQUANT_ALWAYS {
        store(place(i.v / 4, i.v / 2 % 2, i.v % 2), sum[i.v / 4][i.v / 2 % 2][i.v % 2]);
    });
}

template <int bits, bool whole>
void add_strip(const Strip& strip, std::size_t line_bytes, Bytes table, std::int32_t* sums, const Strip* next) {
    unroll<static_cast<int>(kQuarters)>([&](auto k) {
        unroll<4 / kGroupPairs>([&](auto part) {
            constexpr int kFirst = decltype(part)::v * kGroupPairs;
            add_quarter<bits, whole, decltype(k)::v, kFirst, kGroupPairs>(strip, line_bytes, table, sums, next);
        });
    });
}

// Cuts the list of a vector into strips. Those of one strip are in one section.
class Strips {
  public:
    // The stored columns at positions begin .. end of the list, counted over all sections.
    Strips(const Columnwise& matrix, const Prepared& from, std::size_t chunk, std::size_t begin, std::size_t end)
        : matrix_(matrix), from_(from), chunk_(chunk), at_(begin), end_(end), section_(section_of(matrix, 0)),
          part_(matrix, section_, chunk) {}

    // False if there is none left.
    bool take(Strip& strip) {
        while (at_ < end_ && at_ >= before_ + from_.counts[index_]) {
            before_ += from_.counts[index_++];
            section_ = section_of(matrix_, index_), part_ = Chunk(matrix_, section_, chunk_);
        }
        if (at_ >= end_) return false;
        const std::size_t begin = section_.first + at_ - before_, listed = before_ + from_.counts[index_];
        const std::size_t left = (listed < end_ ? listed : end_) - at_, used = left < kStripColumns ? left : kStripColumns;
        const std::uint32_t *const columns = from_.list.columns + begin, first = static_cast<std::uint32_t>(section_.first);
        const std::uint8_t* const codes = part_.codes;
        const std::size_t bytes = part_.column_bytes;
        for (std::size_t i = 0; i < used; ++i) strip.column[i] = codes + bytes * std::size_t{columns[i] - first};  // eight at a time
        for (std::size_t i = used; i < kStripColumns; ++i) strip.column[i] = strip.column[used - 1];
        strip.high = from_.list.high + begin, strip.low = from_.list.low + begin;
        strip.quads = ceil_divide(used, kQuad), strip.section = index_, strip.bits = section_.bits;
        at_ += used;
        if (used < kStripColumns) {
            std::memset(strip.last, 0, sizeof strip.last);
            std::memcpy(strip.last[0], strip.high, used), std::memcpy(strip.last[1], strip.low, used);
            strip.high = strip.last[0], strip.low = strip.last[1];
        }
        return true;
    }

  private:
    const Columnwise& matrix_;
    const Prepared& from_;
    std::size_t chunk_, at_, end_, before_ = 0, index_ = 0;  // before_: positions of the sections before index_
    Section section_;
    Chunk part_;
};

// Asks for what add_quarter leaves out, because this strip has fewer columns or fewer bits than the next one.
RWKVQUANT_INLINE void ask_for_rest(const Strip& strip, const Strip& next) {
    for (std::size_t i = 0; i < kStripColumns; ++i) {
        for (int h = i % kStripQuads < strip.quads ? strip.bits : 0; h < next.bits; ++h) {
            __builtin_prefetch(next.column[i] + static_cast<std::size_t>(h) * kStepBytes, 0, 2);
        }
    }
}

// Adds the columns at positions begin .. end of the list. Memory is asked for kAhead strips before it is needed, also that of the chunk
// `next`, which is added after this one from the first column on; it is the same chunk if none is.
void add_listed(const Columnwise& matrix, const Prepared& from, std::size_t chunk, std::size_t begin, std::size_t end, std::size_t next,
                std::int32_t* sums) {
    Strips own(matrix, from, chunk, begin, end), later(matrix, from, next, 0, next == chunk ? 0 : *from.listed);
    Strip strips[kAhead + 1];
    bool is_own[kAhead + 1];
    const auto make = [&](std::size_t number) {
        Strip& strip = strips[number % (kAhead + 1)];
        const bool added = is_own[number % (kAhead + 1)] = own.take(strip);
        if (!added && !later.take(strip)) {
            strip.bits = 0;  // what is asked for is then that of the strip before: harmless
            std::memcpy(strip.column, strips[(number + kAhead) % (kAhead + 1)].column, sizeof strip.column);
        }
    };
    if (begin >= end) return;
    const std::size_t line_bytes = Chunk(matrix, section_of(matrix, 0), chunk).line_bytes;
    const bool whole = line_bytes == kStepBytes;
    Bytes table = {};
    std::size_t section = kMaxSections;
    for (std::size_t number = 0; number < kAhead; ++number) make(number);
    for (std::size_t number = 0; is_own[number % (kAhead + 1)]; ++number) {
        make(number + kAhead);
        const Strip &strip = strips[number % (kAhead + 1)], &soon = strips[(number + kAhead) % (kAhead + 1)];
        if (strip.section != section) section = strip.section, table = entries_of(section_of(matrix, section));
        if (strip.quads < kStripQuads || strip.bits < soon.bits) ask_for_rest(strip, soon);
        const auto add = strip.bits == 2   ? (whole ? add_strip<2, true> : add_strip<2, false>)
                         : strip.bits == 3 ? (whole ? add_strip<3, true> : add_strip<3, false>)
                                           : (whole ? add_strip<4, true> : add_strip<4, false>);
        add(strip, line_bytes, table, sums, &soon);
    }
}

// Vectors that are multiplied with neighbouring columns together.
struct DenseVectors {
    const std::uint8_t *high[kPass], *low[kPass];  // (cols,) of each vector, with zeros after them
    std::int32_t* sums[kPass];
    std::size_t count;
};

constexpr std::size_t kDenseQuads = 16; // decoded at a time: 32 KiB
constexpr int kDenseGroups = kGroupPairs == 4 ? 2 : 1, kShare = kGroupPairs == 4 ? 4 : 2;  // groups and vectors multiplied together

using DecodedQuads = Bytes[kQuarters][kGroups][kDenseQuads];

template <int bits, bool whole>
void decode_quads(const std::uint8_t* const* column, std::size_t line_bytes, std::size_t quads, Bytes table, DecodedQuads& decoded) {
    for (std::size_t quad = 0; quad < quads; ++quad, column += kQuad) {
        unroll<static_cast<int>(kQuarters)>([&](auto k) RWKVQUANT_ALWAYS {
            Bytes line[bits];
            interleaved_lines<bits, whole, decltype(k)::v, 0, 4>(column, line_bytes, line);
            unroll<4>([&](auto j) RWKVQUANT_ALWAYS {
                Bytes entries[2];
                look_up<bits, decltype(j)::v>(table, line, entries);
                decoded[k.v][j.v][quad] = entries[0], decoded[k.v][j.v + 4][quad] = entries[1];
            });
        });
    }
}

// Adds the decoded columns to the sums of `vectors` vectors, from number `first` on. `at` is the first of the columns.
template <int vectors>
void add_decoded(const DecodedQuads& decoded, std::size_t quads, std::size_t at, const DenseVectors& all, std::size_t first) {
    for (std::size_t k = 0; k < kQuarters; ++k) {
        for (std::size_t group = 0; group < kGroups; group += kDenseGroups) {
            const std::size_t place = (k * kGroups + group) * kHalves * kTileRows;
            constexpr int kEach = kDenseGroups * kHalves;
            Ints sum[vectors][kEach];
            unroll<vectors * kEach>([&](auto i) RWKVQUANT_ALWAYS {
                sum[i.v / kEach][i.v % kEach] = ints_from(all.sums[first + i.v / kEach] + place + i.v % kEach * kTileRows);
            });
            const Bytes* const weights = decoded[k][group];
            for (std::size_t quad = 0; quad < quads; ++quad) {
                unroll<vectors>([&](auto v) RWKVQUANT_ALWAYS {
                    const UnsignedFour high = four_from(all.high[first + v.v] + at + kQuad * quad);
                    const UnsignedFour low = four_from(all.low[first + v.v] + at + kQuad * quad);
                    unroll<kDenseGroups>([&](auto g) RWKVQUANT_ALWAYS {
                        Ints* const own = sum[v.v] + g.v * kHalves;
                        own[0] = signed_dot(own[0], high, weights[g.v * kDenseQuads + quad]);
                        own[1] = signed_dot(own[1], low, weights[g.v * kDenseQuads + quad]);
                    });
                });
            }
            unroll<vectors * kEach>([&](auto i) RWKVQUANT_ALWAYS {
                store(all.sums[first + i.v / kEach] + place + i.v % kEach * kTileRows, sum[i.v / kEach][i.v % kEach]);
            });
        }
    }
}

// Adds all stored columns begin .. end of a section, zeros too. Each is decoded once.
template <int bits>
void add_dense(const Section& section, const Chunk& chunk, Bytes table, std::size_t begin, std::size_t end, const DenseVectors& vectors) {
    const auto decode = chunk.line_bytes == kStepBytes ? decode_quads<bits, true> : decode_quads<bits, false>;
    DecodedQuads decoded;
    for (std::size_t at = begin; at < end; at += kQuad * kDenseQuads) {
        const std::size_t used = end - at < kQuad * kDenseQuads ? end - at : kQuad * kDenseQuads, quads = ceil_divide(used, kQuad);
        const std::uint8_t* column[kQuad * kDenseQuads];
        for (std::size_t i = 0; i < kQuad * kDenseQuads; ++i) {
            column[i] = chunk.column(section, at + (i < used ? i : used - 1));
        }
        decode(column, chunk.line_bytes, quads, table, decoded);
        std::size_t first = 0;
        for (; first + kShare <= vectors.count; first += kShare) add_decoded<kShare>(decoded, quads, at, vectors, first);
        for (; first < vectors.count; ++first) add_decoded<1>(decoded, quads, at, vectors, first);
    }
}

// The listed columns of a section in float32, one after another: sums of groups x pieces of 16 rows. The entries of `table` are 64 too
// large.
template <int bits>
void add_floats(const Section& section, const Chunk& chunk, Bytes table, const List& list, std::size_t count, Floats* sums) {
    const std::size_t pieces = chunk.line_bytes / kTileRows;
    for (std::size_t i = section.first; i < section.first + count; ++i) {
        const std::uint8_t* column = chunk.column(section, list.columns[i]);
        Bytes line[bits];
        for (std::size_t h = 0; h < bits; ++h) line[h] = bytes_from(column + h * chunk.line_bytes, chunk.line_bytes);
        unroll<4>([&](auto j) {
            Bytes entries[2];
            look_up<bits, decltype(j)::v>(table, line, entries);
            std::uint8_t bytes[2][kStepBytes];
            std::memcpy(bytes, entries, sizeof bytes);
            for (std::size_t nibble = 0; nibble < 2; ++nibble) {
                for (std::size_t piece = 0; piece < pieces; ++piece) {
                    Floats& sum = sums[4 * (decltype(j)::v + 4 * nibble) + piece];
                    const Floats weights = add(floats_from_u8(bytes[nibble] + kTileRows * piece), splat(-64.0f));
                    sum = add(sum, multiply(weights, splat(list.values[i])));
                }
            }
        });
    }
}

}  // namespace
}  // namespace rwkvquant::RWKVQUANT_BODY
