// Matrices stored by columns, for inputs that are never negative and mostly zero: columns that are multiplied by zero are not read.
//
//     H[r], L[r] = sums of table[code] * high or low byte of q     over the listed columns, exact in integers, so in any order
//     y[r]       = ((H * 256 + L) * scale) * row_scale[r]          each operation rounds
//
// float32 activations, the reference: y[r] = (sum of table[code] * x', from left to right) * row_scale[r].
#include "columnwise_sums.h"

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

// From this many vectors and this share of columns that are not zero, all columns are multiplied, each decoded once.
constexpr std::size_t kDenseFrom = 4, kDensePercent = 60;

void describe(Description& given, Matrix& matrix) {
    Columnwise own = {};
    own.rows = matrix.rows, own.cols = matrix.cols;
    own.bits = static_cast<int>(given.number("bits", 2, 4));
    own.way = static_cast<Way>(given.number("way", 0, 2));
    given.require(matrix.cols <= kMaxColumns, "a matrix stored by columns must have at most 131072 columns");
    const std::size_t padded = ceil_divide(matrix.rows, kPieceRows) * kPieceRows, bits = static_cast<std::size_t>(own.bits);
    own.codes = given.array("codes", Type::kUint8, padded * matrix.cols * bits / 8);
    own.table = given.array("table", Type::kInt8, std::size_t{1} << bits);
    own.row_scale = given.array("row_scale", Type::kFloat16, ceil_divide(matrix.rows, kTileRows) * kTileRows);
    own.col_scale = given.array("col_scale", Type::kFloat16, matrix.cols);
    keep(own, matrix);
}

// The list of the columns where x' = x * col_scale is not zero.
void list_columns(const Columnwise& matrix, const float* x, const Prepared& to) {
    std::size_t kept = 0;
    for (std::size_t c = 0; c < matrix.cols; c += kTileRows) {
        if (c % kBlockColumns == 0) to.starts[c / kBlockColumns] = static_cast<std::uint32_t>(kept);
        const std::size_t left = matrix.cols - c;
        Floats scaled;
        if (left >= kTileRows) {
            scaled = multiply(floats_from(x + c), floats_from_f16(matrix.col_scale + 2 * c));
        } else {
            float last[kTileRows] = {};
            for (std::size_t i = 0; i < left; ++i) last[i] = x[c + i] * half_at(matrix.col_scale, c + i);
            scaled = floats_from(last);
        }
        kept = keep_nonzero(scaled, static_cast<std::uint32_t>(c), to.columns, to.values, kept);
    }
    to.starts[Prepared::blocks(matrix.cols)] = static_cast<std::uint32_t>(kept);
    *to.count = static_cast<std::uint32_t>(kept);
}

// Rounds what is listed. Magnitudes are compared as whole numbers, as in activations.cpp: a NaN or an infinity becomes the scale.
void round_columns(const Prepared& to) {
    constexpr std::int32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
    const std::size_t count = *to.count;
    const float* const values = to.values;
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
        to.high[i] = static_cast<std::uint8_t>(q >> 8), to.low[i] = static_cast<std::uint8_t>(q & 255);
        high += q >> 8, low += q & 255;
    }
    *to.scale = scale, to.sum[0] = high, to.sum[1] = low;
}

// Rounded activations of all columns, zeros too.
void spread_columns(const Prepared& to, std::size_t cols) {
    std::memset(to.all_high, 0, Prepared::room(cols)), std::memset(to.all_low, 0, Prepared::room(cols));
    for (std::size_t i = 0; i < *to.count; ++i) {
        to.all_high[to.columns[i]] = to.high[i], to.all_low[to.columns[i]] = to.low[i];
    }
}

std::size_t prepared_bytes(const Matrix& matrix) { return Prepared::bytes(matrix.cols); }

void prepare(const Matrix& matrix, const Activations& activations, std::size_t begin, std::size_t end, void* prepared) {
    const Columnwise own = kept<Columnwise>(matrix);
    const std::size_t padded = ceil_divide(own.cols, kActivationGroup) * kActivationGroup;
    for (std::size_t vector = begin; vector < end; ++vector) {
        const Prepared to(prepared, own.cols, vector);
        list_columns(own, activations.x + vector * padded, to);
        if (activations.q == nullptr) continue;
        round_columns(to);
        const bool dense = activations.count >= kDenseFrom && 100 * std::size_t{*to.count} > kDensePercent * own.cols;
        *to.dense = own.way == Way::kChosen ? dense : own.way == Way::kDense;
        if (*to.dense != 0) spread_columns(to, own.cols);
    }
}

std::size_t active(const Matrix& matrix, const Activations& activations, std::size_t vector) {
    return *Prepared(activations.prepared, matrix.cols, vector).count;
}

// `next`: the chunk that will be added after this one, or the same.
void add_to(const Columnwise& matrix, const Prepared& from, std::size_t chunk, std::size_t begin, std::size_t end, std::size_t next,
            std::int32_t* sums) {
    const auto add = matrix.bits == 2 ? add_listed<2> : matrix.bits == 3 ? add_listed<3> : add_listed<4>;
    const std::uint8_t* next_codes = next == chunk ? nullptr : Chunk(matrix, next).codes;
    add(Chunk(matrix, chunk), entries_of(matrix), {from.columns, from.high, from.low, begin, end, *from.count, next_codes}, sums);
}

void add_all(const Columnwise& matrix, std::size_t chunk, std::size_t begin, std::size_t end, const DenseVectors& vectors) {
    const auto add = matrix.bits == 2 ? add_dense<2> : matrix.bits == 3 ? add_dense<3> : add_dense<4>;
    add(Chunk(matrix, chunk), entries_of(matrix), begin, end, vectors);
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
        const Floats high = to_floats(subtract(load<Ints>(total[0]), offset(0))), low = to_floats(subtract(load<Ints>(total[1]), offset(1)));
        const Floats whole = multiply(add(multiply(high, splat(256.0f)), low), splat(*from.scale));
        store(out + row, multiply(whole, floats_from_f16(matrix.row_scale + 2 * row)), rows_left(row, row_end));
    }
}

void add(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, std::size_t begin, std::size_t end,
         std::size_t next, std::int32_t* sums) {
    add_to(kept<Columnwise>(matrix), Prepared(activations.prepared, matrix.cols, vector), chunk, begin, end, next, sums);
}

void finish(const Matrix& matrix, const Activations& activations, std::size_t vector, std::size_t chunk, const std::int32_t* sums,
            float* out) {
    const Prepared from(activations.prepared, matrix.cols, vector);
    const std::size_t begin = kChunkRows * chunk, left = matrix.rows - begin;
    finish_rows(kept<Columnwise>(matrix), from, sums, begin, begin + (left < kChunkRows ? left : kChunkRows), out);
}

// Writes the rows of one chunk for all vectors. A block of columns is multiplied with all vectors of a pass before the next one.
void multiply_chunk(const Columnwise& matrix, const Activations& activations, std::size_t chunk, std::size_t row_begin, std::size_t row_end,
                    std::size_t next, float* out, std::size_t out_stride) {
    alignas(64) std::int32_t sums[kPass][kSums];
    const std::size_t count = activations.count, blocks = count == 1 ? 1 : Prepared::blocks(matrix.cols);
    for (std::size_t first = 0; first < count; first += kPass) {
        const std::size_t vectors = count - first < kPass ? count - first : kPass;
        std::memset(sums, 0, vectors * sizeof sums[0]);
        for (std::size_t block = 0; block < blocks; ++block) {
            DenseVectors dense = {{}, {}, {}, 0};
            for (std::size_t v = 0; v < vectors; ++v) {
                const Prepared from(activations.prepared, matrix.cols, first + v);
                if (*from.dense != 0) {
                    dense.high[dense.count] = from.all_high, dense.low[dense.count] = from.all_low, dense.sums[dense.count] = sums[v];
                    ++dense.count;
                } else {
                    add_to(matrix, from, chunk, from.starts[block], count == 1 ? *from.count : from.starts[block + 1],
                           count == 1 ? next : chunk, sums[v]);
                }
            }
            const std::size_t begin = block * kBlockColumns, left = matrix.cols - begin;
            if (dense.count > 0) add_all(matrix, chunk, begin, begin + (count == 1 || left < kBlockColumns ? left : kBlockColumns), dense);
        }
        for (std::size_t v = 0; v < vectors; ++v) {
            finish_rows(matrix, Prepared(activations.prepared, matrix.cols, first + v), sums[v], row_begin, row_end,
                        out + (first + v) * out_stride);
        }
    }
}

void multiply_chunk_in_floats(const Columnwise& matrix, const Activations& activations, std::size_t chunk, std::size_t row_begin,
                              std::size_t row_end, std::size_t, float* out, std::size_t out_stride) {
    const auto add = matrix.bits == 2 ? add_floats<2> : matrix.bits == 3 ? add_floats<3> : add_floats<4>;
    const Bytes table = entries_of(matrix, kLargestEntry);
    for (std::size_t vector = 0; vector < activations.count; ++vector) {
        const Prepared from(activations.prepared, matrix.cols, vector);
        Floats sums[kGroups * 4];
        for (Floats& sum : sums) sum = splat(0.0f);
        add(Chunk(matrix, chunk), table, from.columns, from.values, *from.count, sums);
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

constexpr ColumnSums kColumnSums = {kChunkRows, kSums, prepared_bytes, prepare, active, add, finish};

}  // namespace

extern const Codec kColumnwise;
constinit const Codec kColumnwise = {"columnwise", describe, product, nullptr, true, &kColumnSums};

}  // namespace rwkvquant::RWKVQUANT_BODY
