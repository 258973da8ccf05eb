// Matrices stored by columns, for inputs that are never negative and mostly zero: columns that are multiplied by zero are not read.
//
// Codecs columnwise and sections; the first has one section (columnwise.h).
//
//     H[r], L[r] = sums of table[code] * high or low byte of q     over the listed columns, exact in integers, so in any order
//     y[r]       = ((H * 256 + L) * scale) * row_scale[r]          each operation rounds
//
// float32 activations, the reference: y[r] = (sum of table[code] * x', section after section) * row_scale[r].
#include "columnwise_sums.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// From this many vectors and this share of columns that are not zero, all columns are multiplied, each decoded once.
constexpr std::size_t kDenseFrom = 4, kDensePercent = 60;

void describe_sides(Description& given, const Matrix& matrix, Columnwise& own) {
    own.rows = matrix.rows, own.cols = matrix.cols;
    own.way = static_cast<Way>(given.number("way", 0, 2));
    given.require(matrix.cols <= kMaxColumns, "a matrix stored by columns must have at most 131072 columns");
}

void take_arrays(Description& given, const char* table, std::size_t entries, Columnwise& own) {
    const Section last = section_of(own, own.sections - 1u);
    own.codes = given.array("codes", Type::kUint8, static_cast<std::size_t>(last.codes - own.codes) +
                                                       own.padded_rows() / 8 * last.count * static_cast<std::size_t>(last.bits));
    own.table = given.array(table, Type::kInt8, entries);
    own.row_scale = given.array("row_scale", Type::kFloat16, ceil_divide(own.rows, kTileRows) * kTileRows);
    own.col_scale = given.array("col_scale", Type::kFloat16, own.cols);
}

void describe(Description& given, Matrix& matrix) {
    Columnwise own = {};
    own.bits[0] = static_cast<std::uint8_t>(given.number("bits", 2, 4));
    describe_sides(given, matrix, own);
    own.sections = 1, own.counts[0] = static_cast<std::uint32_t>(own.cols);
    take_arrays(given, "table", std::size_t{1} << own.bits[0], own);
    keep(own, matrix);
}

void describe_sections(Description& given, Matrix& matrix) {
    Columnwise own = {};
    describe_sides(given, matrix, own);
    own.sections = kMaxSections;
    std::memcpy(own.bits, kSectionBits, sizeof own.bits);
    const std::uint8_t* widths = given.array("widths", Type::kUint8, own.cols);
    std::uint8_t* places = given.room(Places::bytes(own.cols));
    given.require(Places::make(widths, own.cols, places, own.counts), "widths must be 2, 3, 4 or 6");
    own.places = places, own.counts[kWidths] = own.counts[kWidths - 1];
    take_arrays(given, "tables", kTableEntries, own);
    keep(own, matrix);
}

std::size_t prepared_bytes(const Matrix& matrix) { return Prepared::bytes(kept<Columnwise>(matrix)); }
std::size_t room_bytes(const Matrix& matrix) { return Prepared::list_bytes(kept<Columnwise>(matrix)); }

void prepare(const Matrix& matrix, const Activations& activations, std::size_t begin, std::size_t end, void* prepared, void* room) {
    const Columnwise own = kept<Columnwise>(matrix);
    const std::size_t padded = ceil_divide(own.cols, kActivationGroup) * kActivationGroup;
    const bool rounded = activations.q != nullptr;
    for (std::size_t vector = begin; vector < end; ++vector) {
        const Prepared to(prepared, own, vector);
        const List unsorted = to.unsorted(own, rounded, room);
        list_columns(own, activations.x + vector * padded, to, unsorted);
        if (rounded) round_columns(to, unsorted);
        if (own.sections > 1) sort_columns(own, to, unsorted, rounded);
        *to.listed = 0;
        for (std::size_t i = 0; i < own.sections; ++i) *to.listed += to.counts[i];
        if (!rounded) continue;
        const bool dense = activations.count >= kDenseFrom && 100 * std::size_t{*to.found} > kDensePercent * own.cols;
        *to.dense = own.way == Way::kChosen ? dense : own.way == Way::kDense;
        if (*to.dense != 0) spread_columns(own, to);
        else start_blocks(own, to);
    }
}

std::size_t active(const Matrix& matrix, const Activations& activations, std::size_t vector) {
    return *Prepared(activations.prepared, kept<Columnwise>(matrix), vector).listed;
}

// Writes rows of one chunk.
void finish_rows(const Columnwise& matrix, const Prepared& from, const std::int32_t* sums, std::size_t row_begin, std::size_t row_end,
                 float* out) {
    const auto offset = [&](std::size_t half) { return splat(static_cast<std::int32_t>(kEntryOffset * std::uint32_t(from.sum[half]))); };
    for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
        const std::size_t piece = row % kChunkRows / kPieceRows, group = row % kPieceRows / kTileRows;
        std::int32_t total[kHalves][kTileRows];
        for (std::size_t k = 0; k < kQuarters; ++k) {
            for (std::size_t half = 0; half < kHalves; ++half) {
                std::memcpy(total[half] + 4 * k, sums + ((k * kGroups + group) * kHalves + half) * kTileRows + 4 * piece, 16);
            }
        }
        const Floats high = to_floats(subtract(ints_from(total[0]), offset(0))), low = to_floats(subtract(ints_from(total[1]), offset(1)));
        const Floats whole = multiply(add(multiply(high, splat(256.0f)), low), splat(*from.scale));
        store(out + row, multiply(whole, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
    }
}

void add(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, std::size_t begin, std::size_t end,
         std::size_t next, std::int32_t* sums) {
    const Columnwise own = kept<Columnwise>(matrix);
    add_listed(own, Prepared(activations.prepared, own, vector), chunk, begin, end, next, sums);
}

void finish(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, const std::int32_t* sums,
            float* out) {
    const Columnwise own = kept<Columnwise>(matrix);
    const std::size_t begin = kChunkRows * chunk, left = matrix.rows - begin;
    finish_rows(own, Prepared(activations.prepared, own, vector), sums, begin, begin + (left < kChunkRows ? left : kChunkRows), out);
}

// Adds a block of a section's columns, begin .. end, to the sums of some vectors. `number` counts blocks over all sections.
void add_block(const Columnwise& matrix, const Activations& activations, std::size_t first, std::size_t vectors, std::size_t chunk,
               std::size_t index, std::size_t begin, std::size_t end, std::size_t number, std::int32_t (*sums)[kSums]) {
    DenseVectors dense = {{}, {}, {}, 0};
    for (std::size_t v = 0; v < vectors; ++v) {
        const Prepared from(activations.prepared, matrix, first + v);
        if (*from.dense != 0) {
            dense.high[dense.count] = from.all_high + kGap * index, dense.low[dense.count] = from.all_low + kGap * index;
            dense.sums[dense.count++] = sums[v];
        } else {
            add_listed(matrix, from, chunk, from.starts[number], from.starts[number + 1], chunk, sums[v]);
        }
    }
    if (dense.count == 0) return;
    const Section section = section_of(matrix, index);
    const auto add = section.bits == 2 ? add_dense<2> : section.bits == 3 ? add_dense<3> : add_dense<4>;
    add(section, Chunk(matrix, section, chunk), entries_of(section), begin, end, dense);
}

// Writes the rows of one chunk for all vectors. A block of columns is multiplied with all vectors of a pass before the next one.
void multiply_chunk(const Columnwise& matrix, const Activations& activations, std::size_t chunk, std::size_t row_begin, std::size_t row_end,
                    std::size_t next, float* out, std::size_t out_stride) {
    alignas(64) std::int32_t sums[kPass][kSums];
    const std::size_t count = activations.count;
    for (std::size_t first = 0; first < count; first += kPass) {
        const std::size_t vectors = count - first < kPass ? count - first : kPass;
        std::memset(sums, 0, vectors * sizeof sums[0]);
        const Prepared one(activations.prepared, matrix, first);
        if (vectors == 1 && *one.dense == 0) {
            add_listed(matrix, one, chunk, 0, *one.listed, count == 1 ? next : chunk, sums[0]);
        } else {
            for (std::size_t i = 0, number = 0; i < matrix.sections; ++i) {
                const Section section = section_of(matrix, i);
                const std::size_t end = section.first + section.count;
                for (std::size_t begin = section.first; begin < end; begin += kBlockColumns, ++number) {
                    const std::size_t stop = end - begin < kBlockColumns ? end : begin + kBlockColumns;
                    add_block(matrix, activations, first, vectors, chunk, i, begin, stop, number, sums);
                }
            }
        }
        for (std::size_t v = 0; v < vectors; ++v) {
            finish_rows(matrix, Prepared(activations.prepared, matrix, first + v), sums[v], row_begin, row_end,
                        out + (first + v) * out_stride);
        }
    }
}

void multiply_chunk_in_floats(const Columnwise& matrix, const Activations& activations, std::size_t chunk, std::size_t row_begin,
                              std::size_t row_end, std::size_t, float* out, std::size_t out_stride) {
    for (std::size_t vector = 0; vector < activations.count; ++vector) {
        const Prepared from(activations.prepared, matrix, vector);
        Floats sums[kGroups * 4];
        for (Floats& sum : sums) sum = splat(0.0f);
        for (std::size_t i = 0; i < matrix.sections; ++i) {
            const Section section = section_of(matrix, i);
            const auto add = section.bits == 2 ? add_floats<2> : section.bits == 3 ? add_floats<3> : add_floats<4>;
            add(section, Chunk(matrix, section, chunk), entries_of(section, kLargestEntry), from.list, from.counts[i], sums);
        }
        for (std::size_t row = row_begin; row < row_end; row += kTileRows) {
            const Floats& sum = sums[4 * (row % kPieceRows / kTileRows) + row % kChunkRows / kPieceRows];
            store(out + vector * out_stride + row, multiply(sum, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
        }
    }
}

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    const Columnwise own = kept<Columnwise>(matrix);
    const auto multiply = activations.q == nullptr ? multiply_chunk_in_floats : multiply_chunk;
    for (std::size_t row = row_begin, stop; row < row_end; row = stop) {
        const std::size_t chunk = row / kChunkRows, chunk_end = (chunk + 1) * kChunkRows;
        stop = row_end < chunk_end ? row_end : chunk_end;
        multiply(own, activations, chunk, row, stop, stop < row_end ? chunk + 1 : chunk, out, out_stride);
    }
}

constexpr ColumnSums kColumnSums = {kChunkRows, kSums, prepared_bytes, room_bytes, prepare, active, add, finish};

}  // namespace

extern const Codec kColumnwise;
constinit const Codec kColumnwise = {"columnwise", describe, product, nullptr, true, &kColumnSums};
extern const Codec kSections;
constinit const Codec kSections = {"sections", describe_sections, product, nullptr, true, &kColumnSums};

}  // namespace rwkvquant::RWKVQUANT_BODY
