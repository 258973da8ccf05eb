// One vector as `prepare` writes it for a matrix stored by columns: a list of the columns that are not zero.
//
// x' = x * col_scale is listed in the order of the matrix and rounded. Where there are several sections, what is listed is then put into
// their order: a list for each section, at the number of its first stored column. Few columns are listed, so that costs little.
#pragma once

#include "columnwise.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// Where a column is stored, in memory that is made when the matrix is described. For each 64 columns: how many columns of each width are
// before them, four uint32; then one byte for each column, 64 * width + how many of that width are before it among the 64.
struct Places {
    static constexpr std::size_t kBlock = 64, kBlockBytes = kWidths * sizeof(std::uint32_t) + kBlock;

    static std::size_t bytes(std::size_t cols) { return ceil_divide(cols, kBlock) * kBlockBytes; }

    // Writes `places`, and counts the columns of each width. False if a width is not one of kWidthOf.
    static bool make(const std::uint8_t* widths, std::size_t cols, std::uint8_t* places, std::uint32_t* counts) {
        std::uint32_t before[kWidths] = {};
        for (std::size_t c = 0; c < cols; ++c) {
            std::uint8_t* const block = places + c / kBlock * kBlockBytes;
            if (c % kBlock == 0) std::memcpy(block, counts, sizeof before), std::memcpy(before, counts, sizeof before);
            std::size_t width = 0;
            while (width < kWidths && kWidthOf[width] != widths[c]) ++width;
            if (width == kWidths) return false;
            block[sizeof before + c % kBlock] = static_cast<std::uint8_t>(kBlock * width + (counts[width]++ - before[width]));
        }
        return true;
    }

    struct Place {
        std::size_t width;
        std::uint32_t index;  // among the columns of its width
    };
    static Place of(const std::uint8_t* places, std::size_t column) {
        const std::uint8_t* const block = places + column / kBlock * kBlockBytes;
        const std::size_t packed = block[kWidths * sizeof(std::uint32_t) + column % kBlock], width = packed / kBlock;
        return {width, load<std::uint32_t>(block + width * sizeof(std::uint32_t)) + static_cast<std::uint32_t>(packed % kBlock)};
    }
};

// With rounded activations the columns that are listed have high and low bytes; otherwise they have values.
struct List {
    std::uint32_t* columns;  // ascending
    float* values;           // x'
    std::uint8_t *high, *low;  // of q
};

constexpr std::size_t kGap = 4;  // zeros between the sections in all_high and all_low: columns are multiplied four at a time

// In memory of `bytes(matrix)`.
struct Prepared {
    float* scale;
    std::int32_t* sum;                 // of the high bytes, and of the low bytes of all stored columns
    std::uint32_t* dense;              // whether all_high and all_low are written
    std::uint32_t *found, *listed;     // how many columns, and how many stored columns, are not zero
    std::uint32_t* counts;             // (kMaxSections,) how many stored columns of each section are not zero
    std::uint32_t* starts;             // (blocks + 1,) see `start_blocks`
    List list;                         // of stored columns: the list of a section begins where its columns do
    std::uint8_t *all_high, *all_low;  // q of all stored columns, with kGap zeros after each section

    Prepared(const void* prepared, const Columnwise& matrix, std::size_t vector) {
        std::uint8_t* at = static_cast<std::uint8_t*>(const_cast<void*>(prepared)) + vector * bytes(matrix);
        const auto take = [&](std::size_t size) {
            std::uint8_t* const begin = at;
            at += size;
            return begin;
        };
        const auto take_numbers = [&](std::size_t count) { return reinterpret_cast<std::uint32_t*>(take(4 * count)); };
        const std::size_t most = room(matrix.stored());
        scale = reinterpret_cast<float*>(take(4)), sum = reinterpret_cast<std::int32_t*>(take(8));
        dense = take_numbers(1), found = take_numbers(1), listed = take_numbers(1), counts = take_numbers(kMaxSections);
        starts = take_numbers(blocks(matrix) + 1);
        list.columns = take_numbers(most);
        list.values = reinterpret_cast<float*>(at);  // where the activations are not rounded; otherwise there are four bytes:
        list.high = take(most), list.low = take(most), all_high = take(most), all_low = take(most);
    }

    static std::size_t blocks(const Columnwise& matrix) { return matrix.stored() / kBlockColumns + matrix.sections; }  // at most
    static std::size_t room(std::size_t cols) { return ceil_divide(cols, 64) * 64 + 64; }  // 16 are written at a time; and gaps
    static std::size_t bytes(const Columnwise& matrix) {
        return ceil_divide(4 * (7 + kMaxSections + blocks(matrix)) + 8 * room(matrix.stored()), 64) * 64;
    }

    // The list of columns of the matrix before these are sorted, in memory of `list_bytes`. With one section there is nothing to sort, so
    // all is written where it stays; but values that will be rounded need memory of their own.
    List unsorted(const Columnwise& matrix, bool rounded, void* memory) const {
        const std::size_t most = room(matrix.cols);
        float* const values = static_cast<float*>(memory);
        if (matrix.sections == 1) return {list.columns, rounded ? values : list.values, list.high, list.low};
        auto* const columns = reinterpret_cast<std::uint32_t*>(values + most);
        auto* const high = reinterpret_cast<std::uint8_t*>(columns + most);
        return {columns, values, high, high + most};
    }
    static std::size_t list_bytes(const Columnwise& matrix) { return 10 * room(matrix.cols); }
};

// The list of the columns where x' = x * col_scale is not zero; of all columns if the matrix is to be read whole.
void list_columns(const Columnwise& matrix, const float* x, const Prepared& to, const List& unsorted) {
    std::size_t kept = 0;
    for (std::size_t c = 0; c < matrix.cols; c += kTileRows) {
        const std::size_t left = matrix.cols - c;
        Floats scaled;
        if (left >= kTileRows) {
            scaled = multiply(floats_from(x + c), floats_from_f16(matrix.col_scale + 2 * c));
        } else {
            float last[kTileRows] = {};
            for (std::size_t i = 0; i < left; ++i) last[i] = x[c + i] * half_at(matrix.col_scale, c + i);
            scaled = floats_from(last);
        }
        if (matrix.way != Way::kDense) {
            kept = keep_nonzero(scaled, static_cast<std::uint32_t>(c), unsorted.columns, unsorted.values, kept);
            continue;
        }
        store(unsorted.values + c, scaled);
        for (std::size_t i = 0; i < kTileRows; ++i) unsorted.columns[c + i] = static_cast<std::uint32_t>(c + i);
        kept = left < kTileRows ? matrix.cols : c + kTileRows;
    }
    *to.found = to.counts[0] = static_cast<std::uint32_t>(kept);
}

// Rounds what is listed. Magnitudes are compared as whole numbers, as in activations.cpp: a NaN or an infinity becomes the scale.
void round_columns(const Prepared& to, const List& unsorted) {
    constexpr std::int32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
    const std::size_t count = *to.found;
    const float* const values = unsorted.values;
    std::int32_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto bits = load<std::int32_t>(values + i);
        const std::int32_t size = bits & kMagnitude, counted = bits >= 0 || size > kInfinity ? size : 0;
        most = counted > most ? counted : most;
    }
    const float scale = load<float>(&most) / 65535.0f;
    std::int32_t high = 0, low = 0;
    for (std::size_t i = 0; i < count; ++i) {
        float steps = values[i] / scale;
        steps = (load<std::int32_t>(&steps) & kMagnitude) < kInfinity ? steps : 0.0f;
        steps = steps > 65535.0f ? 65535.0f : steps < 0.0f ? 0.0f : steps;
        const auto q = static_cast<std::int32_t>((steps + 0x1.8p23f) - 0x1.8p23f);  // a number added to this keeps no fraction
        unsorted.high[i] = static_cast<std::uint8_t>(q >> 8), unsorted.low[i] = static_cast<std::uint8_t>(q & 255);
        high += q >> 8, low += q & 255;
    }
    *to.scale = scale, to.sum[0] = high, to.sum[1] = low;
}

// From the order of the matrix to the order of the sections. Columns of 6 bits are listed in two of them.
void sort_columns(const Columnwise& matrix, const Prepared& to, const List& unsorted, bool rounded) {
    std::uint32_t first[kMaxSections], next[kMaxSections];
    for (std::size_t i = 0; i < kMaxSections; ++i) next[i] = first[i] = static_cast<std::uint32_t>(section_of(matrix, i).first);
    for (std::size_t i = 0; i < *to.found; ++i) {
        const Places::Place place = Places::of(matrix.places, unsorted.columns[i]);
        const std::uint32_t at = next[place.width]++;
        to.list.columns[at] = first[place.width] + place.index;
        if (rounded) to.list.high[at] = unsorted.high[i], to.list.low[at] = unsorted.low[i];
        else to.list.values[at] = unsorted.values[i];
    }
    for (std::uint32_t from = first[3]; from < next[3]; ++from) {
        const std::uint32_t at = next[4]++;
        to.list.columns[at] = to.list.columns[from] + matrix.counts[3];
        if (rounded) {
            to.list.high[at] = to.list.high[from], to.list.low[at] = to.list.low[from];
            to.sum[0] += to.list.high[at], to.sum[1] += to.list.low[at];
        } else {
            to.list.values[at] = to.list.values[from];
        }
    }
    for (std::size_t i = 0; i < kMaxSections; ++i) to.counts[i] = next[i] - first[i];
}

// The position where each block of kBlockColumns stored columns begins, and after them how many are listed. Positions count what is listed
// over all sections. A block has columns of one section.
void start_blocks(const Columnwise& matrix, const Prepared& to) {
    std::uint32_t *start = to.starts, position = 0;
    for (std::size_t i = 0; i < matrix.sections; ++i) {
        const Section section = section_of(matrix, i);
        const std::uint32_t* const columns = to.list.columns + section.first;
        std::uint32_t at = 0;
        for (std::size_t column = section.first; column < section.first + section.count; column += kBlockColumns) {
            while (at < to.counts[i] && columns[at] < column) ++at;
            *start++ = position + at;
        }
        position += to.counts[i];
    }
    *start = position;
}

// Rounded activations of all stored columns, zeros too.
void spread_columns(const Columnwise& matrix, const Prepared& to) {
    const std::size_t bytes = Prepared::room(matrix.stored());
    std::memset(to.all_high, 0, bytes), std::memset(to.all_low, 0, bytes);
    for (std::size_t i = 0; i < matrix.sections; ++i) {
        const std::size_t first = section_of(matrix, i).first;
        for (std::size_t at = first; at < first + to.counts[i]; ++at) {
            const std::size_t place = to.list.columns[at] + kGap * i;
            to.all_high[place] = to.list.high[at], to.all_low[place] = to.list.low[at];
        }
    }
}

}  // namespace
}  // namespace rwkvquant::RWKVQUANT_BODY
