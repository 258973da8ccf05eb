// The product of a matrix stored by columns, and what all threads do for it (codec.h, ColumnSums).
//
// For one token the line of work is (chunk of rows, columns that are not zero), cut into the threads' shares of it: so also a matrix of few chunks keeps
// many threads busy. Sums are whole numbers. A thread that has a part of a chunk leaves its sums in a slot, and the last of them to arrive
// adds all and writes the rows. For many tokens a piece is a chunk and some tokens.
#include <algorithm>

#include "bodies.h"
#include "engine.h"

namespace rwkvquant {
namespace {

constexpr std::size_t kSlots = 2;           // of a thread: the first and the last of its chunks may be shared
constexpr std::size_t kColumnUnit = 16;     // columns are cut at multiples of it: a strip of fours
constexpr std::size_t kPieceTokens = 16;

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// The line of work of one token: `length` columns of each chunk, a multiple of kColumnUnit. `cut(thread)` is where the part of a thread
// begins; that of the thread after the last one is the end.
struct WorkLine {
    const Worker& worker;
    std::size_t chunks, length;

    std::size_t cut(std::size_t thread) const { return worker.begin_of(thread, chunks * length / kColumnUnit) * kColumnUnit; }
    bool has_part(std::size_t thread, std::size_t chunk) const {
        const std::size_t begin = chunk * length, end = begin + length;
        return std::max(begin, cut(thread)) < std::min(end, cut(thread + 1));
    }
    unsigned parts(std::size_t chunk) const {
        unsigned count = 0;
        for (std::size_t thread = 0; thread < worker.threads; ++thread) count += has_part(thread, chunk) ? 1 : 0;
        return count;
    }
    // The slot in which a thread leaves its sums of a chunk that it shares.
    std::size_t slot(std::size_t thread, std::size_t chunk) const { return kSlots * thread + (cut(thread) < chunk * length ? 1 : 0); }
};

}  // namespace

bool Engine::is_by_columns(const Matrix& W) const { return operations().codecs[W.codec]->by_columns != nullptr; }

std::size_t Engine::prepared_bytes() const {
    std::size_t bytes = 0;
    for (const auto& [name, W] : weights_.matrices) {
        if (const ColumnSums* codec = operations().codecs[W.codec]->by_columns) bytes = std::max(bytes, codec->prepared_bytes(W));
    }
    return bytes;
}

void Engine::reserve_columns(std::size_t count) {
    std::size_t chunks = 0, sums = 0;
    for (const auto& [name, W] : weights_.matrices) {
        const ColumnSums* codec = operations().codecs[W.codec]->by_columns;
        if (codec == nullptr) continue;
        room_bytes_ = std::max(room_bytes_, (codec->room_bytes(W) + 63) / 64 * 64);
        chunks = std::max(chunks, ceil_divide(W.rows, codec->chunk_rows));
        sums = std::max(sums, codec->sums);
    }
    prepared_ = {};
    prepared_ = Buffer<std::uint8_t>(count * prepared_bytes());
    if (arrived_.size() == chunks) return;
    room_ = Buffer<std::uint8_t>(pool_.asked() * room_bytes_);
    sums_ = Buffer<std::int32_t>(pool_.asked() * kSlots * sums);
    arrived_ = std::vector<std::atomic<unsigned>>(chunks);
}

void Engine::add_by_columns(const Worker& worker, const Matrix& W, const Vectors& y, const Vectors* gate, std::size_t count) {
    const Codec& codec = *operations().codecs[W.codec];
    const ColumnSums& columns = *codec.by_columns;
    Activations view = y.view(count, quantized_);
    const Range own = worker.share(count, 1);
    columns.prepare(W, view, own.begin, own.end, prepared_.data(), room_.data() + worker.index * room_bytes_);
    view.prepared = prepared_.data();
    worker.barrier();

    const std::size_t rows = columns.chunk_rows, chunks = ceil_divide(W.rows, rows);
    const auto rows_of = [&](std::size_t chunk) { return Range{rows * chunk, std::min(W.rows, rows * (chunk + 1))}; };
    const auto add_rows = [&](std::size_t m, Range part) {
        if (gate != nullptr) operations().multiply(branch_.row(m), gate->row(m), part.begin, part.end);
        operations().add(x_.row(m), branch_.row(m), part.begin, part.end);
    };
    if (count > 1 || !quantized_) {
        const std::size_t each = std::clamp<std::size_t>(count * chunks / (4 * worker.threads), 1, kPieceTokens);
        const std::size_t groups = ceil_divide(count, each), pieces = chunks * groups;
        worker.hand_out(pieces, count < kManyTokens ? 0 : pieces / 2, [&](Range part) {
            for (std::size_t piece = part.begin; piece < part.end; ++piece) {
                const std::size_t first = piece % groups * each, stop = std::min(count, first + each);
                const Range chunk = rows_of(piece / groups);
                Activations some = y.view_from(first, stop - first, quantized_);
                some.prepared = prepared_.data() + first * columns.prepared_bytes(W);
                codec.product(W, some, branch_.row(first), branch_.stride(), chunk.begin, chunk.end);
                for (std::size_t m = first; m < stop; ++m) add_rows(m, chunk);
            }
        });
        return;
    }
    const std::size_t active = columns.active(W, view, 0);
    const WorkLine line = {worker, chunks, ceil_divide(std::max<std::size_t>(active, 1), kColumnUnit) * kColumnUnit};
    const std::size_t begin = line.cut(worker.index), end = line.cut(worker.index + 1);
    for (std::size_t chunk = begin / line.length; begin < end && chunk * line.length < end; ++chunk) {
        const std::size_t first = chunk * line.length, size = columns.sums;
        const Range part = {std::max(begin, first) - first, std::min(end, first + line.length) - first};
        std::int32_t* sums = sums_.data() + line.slot(worker.index, chunk) * size;
        std::memset(sums, 0, size * sizeof *sums);
        const std::size_t next = first + line.length < end ? chunk + 1 : chunk;
        columns.add(W, view, 0, chunk, std::min(part.begin, active), std::min(part.end, active), next, sums);
        if (part.end - part.begin < line.length) {
            if (arrived_[chunk].fetch_add(1, std::memory_order_acq_rel) + 1 < line.parts(chunk)) continue;
            arrived_[chunk].store(0, std::memory_order_relaxed);
            for (std::size_t other = 0; other < worker.threads; ++other) {
                if (other == worker.index || !line.has_part(other, chunk)) continue;
                const std::int32_t* theirs = sums_.data() + line.slot(other, chunk) * size;
                for (std::size_t i = 0; i < size; ++i) sums[i] += theirs[i];
            }
        }
        columns.finish(W, view, 0, chunk, sums, branch_.row(0));
        add_rows(0, rows_of(chunk));
    }
}

}  // namespace rwkvquant
