#include "engine.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "bodies.h"

namespace rwkvquant {

using Make = std::unique_ptr<Engine>(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations);
Make make_rwkv7, make_rwkv6;  // engine_<architecture>.cpp

namespace {

// All architectures that have an engine. A new one is a file, its line here and above, and its name in CMakeLists.txt.
struct {
    const char* arch;
    Make* make;
} constexpr kEngines[] = {{"rwkv7", make_rwkv7}, {"rwkv6", make_rwkv6}};

constexpr std::size_t kRowUnit = 32;  // two row-blocks: products with many vectors take two at a time
constexpr float kLayerNormEps = 1e-5f;

// How a matrix is divided among threads. For few tokens by index only: a new piece waits for its first memory, and all cores share the
// memory. For many tokens half of it is handed out, in pieces that are large enough for what a call costs.
struct Division {
    std::size_t pieces, single;

    Division(const Worker& worker, std::size_t bytes, std::size_t tokens) : pieces(Worker::kWhole), single(0) {
        constexpr std::size_t kPieceBytes = 32 << 10, kMostPieces = 16;
        if (tokens < kManyTokens) return;
        pieces = worker.threads * std::clamp<std::size_t>(bytes / kPieceBytes / worker.threads, 1, kMostPieces);
        single = pieces / 2;
    }
};

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

std::vector<std::string> codec_names() {
    std::vector<std::string> names;
    for (const Codec* const* codec = operations().codecs; *codec != nullptr; ++codec) names.emplace_back((*codec)->name);
    return names;
}

std::vector<std::size_t> bytes_by_codec(const Weights& weights) {
    std::vector<std::size_t> bytes(codec_names().size());
    for (const auto& [name, W] : weights.matrices) bytes[W.codec] += W.bytes;
    return bytes;
}

[[noreturn]] void refuse(const std::string& name, const std::string& rule) { throw std::invalid_argument(rule + " (" + name + ")"); }

}  // namespace

const Matrix* Weights::matrix(const std::string& name, std::size_t rows, std::size_t cols, bool nonnegative) const {
    const auto entry = matrices.find(name);
    if (entry == matrices.end()) refuse(name, "the engine needs this matrix");
    const Matrix& W = entry->second;
    if (W.rows != rows || W.cols != cols) {
        const auto shape = [](std::size_t r, std::size_t c) { return std::to_string(r) + " x " + std::to_string(c); };
        refuse(name, "a matrix must have the shape of the model's sizes, " + shape(rows, cols) + "; got " + shape(W.rows, W.cols));
    }
    if (!nonnegative && operations().codecs[W.codec]->by_columns != nullptr) {
        refuse(name, "a matrix stored by columns must have an input that is never negative");
    }
    return &entry->second;
}

const float* Weights::vector(const std::string& name, std::size_t size) const {
    const auto entry = vectors.find(name);
    if (entry == vectors.end()) refuse(name, "the engine needs this vector");
    if (entry->second.size() != size) {
        refuse(name, "a vector must have " + std::to_string(size) + " elements; got " + std::to_string(entry->second.size()));
    }
    return entry->second.data();
}

std::size_t Weights::rank(const std::string& name) const {
    const auto entry = matrices.find(name);
    if (entry == matrices.end()) refuse(name, "the engine needs this matrix");
    return entry->second.rows;
}

Vectors::Vectors(std::size_t cols)
    : cols_(cols), padded_(ceil_divide(cols, kColumnGroup) * kColumnGroup), groups_(padded_ / kColumnGroup) {}

void Vectors::reserve(std::size_t count) {
    if (count <= capacity_) return;
    capacity_ = count;
    x_ = Buffer<float>(count * padded_);
    q_ = Buffer<std::int8_t>(count * padded_);
    scale_ = Buffer<float>(count * groups_);
    minus_sum_ = Buffer<std::int32_t>(2 * count * groups_);
}

void Vectors::quantize(std::size_t b, Range columns) const {
    if (columns.begin >= columns.end) return;
    const std::size_t at = b * padded_ + columns.begin, group = b * groups_ + columns.begin / kColumnGroup;
    operations().quantize_activations(x_.data() + at, 1, columns.end - columns.begin, q_.data() + at, scale_.data() + group,
                                      minus_sum_.data() + 2 * group);
}

Activations Vectors::view_from(std::size_t first, std::size_t count, bool quantized) const {
    Activations view;
    view.x = x_.data() + first * padded_;
    view.cols = cols_;
    view.count = count;
    if (quantized) {
        view.q = q_.data() + first * padded_;
        view.scale = scale_.data() + first * groups_;
        view.minus_sum = minus_sum_.data() + 2 * first * groups_;
    }
    return view;
}

Engine::Engine(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations)
    : sizes(sizes),
      weights_(std::move(weights)),
      quantized_(quantize_activations),
      x_(sizes.width),
      branch_(sizes.width),
      column_unit_(std::lcm(kColumnGroup, sizes.head_size)),
      head_x_(sizes.width),
      pool_(threads),
      shares_(pool_.threads()),
      prefetch_(operations().isa, codec_names(), bytes_by_codec(weights_)),
      times_(codec_names().size()) {
    ln0_ = norm("blocks.0.ln0");
    ln_out_ = norm("ln_out");
    head_ = weights_.matrix("head.weight", sizes.vocab, sizes.width);
}

void Engine::forward(const Step& step) {
    const std::lock_guard<std::mutex> lock(busy_);
    const std::size_t count = step.tokens.size();
    if (count > reserved_) {
        for (Vectors* vectors : {&x_, &branch_, &head_x_}) vectors->reserve(count);
        reserve(count);
        reserve_columns(count);
        reserved_ = count;
    }
    const auto work = [&](const Worker& worker) {
        embed(worker, step);
        for (std::size_t layer = 0; layer < sizes.layers; ++layer) block(worker, step, layer);
        head(worker, step);
    };
    const bool usual = count == 1 && step.wanted.size() == 1;  // steps that do the same can be compared
    timing_ = usual && prefetch_.measuring();
    for (std::atomic<std::uint64_t>& time : times_) time.store(0, std::memory_order_relaxed);
    pool_.run(work, count < kManyTokens ? &shares_.team() : nullptr);  // much of the work on many tokens is handed out to free threads
    if (usual) shares_.learn(pool_.busy(), pool_.time());
    if (timing_) prefetch_.learn(std::vector<std::uint64_t>(times_.begin(), times_.end()));
}

std::map<std::string, std::size_t> Engine::prefetch() const {
    const std::lock_guard<std::mutex> lock(busy_);
    std::map<std::string, std::size_t> distances;
    for (const auto& [name, W] : weights_.matrices) {
        if (!is_by_columns(W)) distances[operations().codecs[W.codec]->name] = prefetch_.ahead(W.codec);  // those ask for listed columns
    }
    return distances;
}

std::string Engine::prefetch_source() const {
    const std::lock_guard<std::mutex> lock(busy_);
    return prefetch_.source();
}

void Engine::fix_prefetch(std::optional<std::size_t> ahead) {
    const std::lock_guard<std::mutex> lock(busy_);
    prefetch_.fix(ahead);
}

std::vector<double> Engine::shares() const {
    const std::lock_guard<std::mutex> lock(busy_);
    return {shares_.values().begin(), shares_.values().end()};
}

bool Engine::fix_shares(std::span<const double> shares) {
    const std::lock_guard<std::mutex> lock(busy_);
    return shares_.fix(shares);
}

void Engine::embed(const Worker& worker, const Step& step) {
    const Range own = own_columns(worker);
    const auto decode_row = operations().codecs[weights_.embedding.codec]->decode_row;
    for (std::size_t m = 0; m < step.tokens.size(); ++m) {
        decode_row(weights_.embedding, step.tokens[m], own.begin, own.end, branch_.row(m));
    }
    worker.barrier();
    for (std::size_t m = 0; m < step.tokens.size(); ++m) {
        operations().layer_norm(branch_.row(m), ln0_.weight, ln0_.bias, sizes.width, kLayerNormEps, own.begin, own.end, x_.row(m));
    }
    worker.barrier();
}

void Engine::head(const Worker& worker, const Step& step) {
    if (step.wanted.empty()) return;
    const Range own = own_columns(worker);
    for (std::size_t j = 0; j < step.wanted.size(); ++j) {
        operations().layer_norm(x_.row(step.wanted[j]), ln_out_.weight, ln_out_.bias, sizes.width, kLayerNormEps, own.begin, own.end,
                                     head_x_.row(j));
    }
    quantize(head_x_, step.wanted.size(), own);
    worker.barrier();
    hand_out_rows(worker, *head_, step.wanted.size(),
              [&](Range rows) { multiply(*head_, head_x_, step.wanted.size(), step.logits, sizes.vocab, rows); });
}

Engine::Norm Engine::norm(const std::string& name) const {
    return {weights_.vector(name + ".weight", sizes.width), weights_.vector(name + ".bias", sizes.width)};
}

void Engine::normalize(const Norm& ln, std::size_t count, const Vectors& y, Range own) const {
    for (std::size_t m = 0; m < count; ++m) {
        operations().layer_norm(x_.row(m), ln.weight, ln.bias, sizes.width, kLayerNormEps, own.begin, own.end, y.row(m));
    }
}

const float* Engine::previous(const Vectors& y, const Sequence& sequence, std::size_t m, const float* shift, std::size_t layer,
                              const StateArrays& state) const {
    return m > sequence.first ? y.row(m - 1) : shift + (layer * state.batch + sequence.slot) * sizes.width;
}

void Engine::remember(const Step& step, const Vectors& y, std::size_t layer, float* StateArrays::*shift, Range own) const {
    if (own.begin >= own.end) return;
    for (const Sequence& sequence : step.sequences) {
        float* to = step.to.*shift + (layer * step.to.batch + sequence.slot) * sizes.width;
        std::memcpy(to + own.begin, y.row(sequence.first + sequence.count - 1) + own.begin, (own.end - own.begin) * sizeof(float));
    }
}

void Engine::quantize(const Vectors& y, std::size_t count, Range own) const {
    if (!quantized_) return;
    for (std::size_t m = 0; m < count; ++m) y.quantize(m, own);
}

float* Engine::state_of(const StateArrays& state, std::size_t layer, std::size_t slot, std::size_t head) const {
    return state.wkv + ((layer * state.batch + slot) * sizes.heads + head) * sizes.head_size * sizes.head_size;
}

void Engine::multiply(const Matrix& W, const Vectors& x, std::size_t count, float* out, std::size_t stride, Range rows) const {
    if (rows.begin >= rows.end) return;
    Activations view = x.view(count, quantized_);
    view.ahead = prefetch_.ahead(W.codec);
    const std::uint64_t started = timing_ ? ticks() : 0;
    operations().codecs[W.codec]->product(W, view, out, stride, rows.begin, rows.end);
    if (timing_) times_[W.codec].fetch_add(ticks() - started, std::memory_order_relaxed);
}

void Engine::add_branch(const Worker& worker, const Matrix& W, const Vectors& y, const Vectors* gate, std::size_t count) {
    if (is_by_columns(W)) return add_by_columns(worker, W, y, gate, count);
    hand_out_rows(worker, W, count, [&](Range rows) {
        multiply(W, y, count, branch_.row(0), branch_.stride(), rows);
        for (std::size_t m = 0; m < count; ++m) {
            if (gate != nullptr) operations().multiply(branch_.row(m), gate->row(m), rows.begin, rows.end);
            operations().add(x_.row(m), branch_.row(m), rows.begin, rows.end);
        }
    });
}

// The products are put one after another into one line of work, measured in bytes or, for many tokens, in multiplications. The line is cut
// into equal lengths, each cut moved to the end of a unit of rows. A product whose output another product reads is cut at groups of 64, so
// that one thread can quantise each group.
void Engine::multiply_all(const Worker& worker, std::span<const Product> products, std::size_t count) const {
    const auto cost = [&](const Product& product) {
        return count < kManyTokens ? product.W->bytes : product.W->rows * product.W->cols;
    };
    std::size_t total = 0, bytes = 0;
    for (const Product& product : products) total += cost(product), bytes += product.W->bytes;

    const Division division(worker, bytes, count);
    worker.hand_out(division.pieces, division.single, [&](Range part) {
        std::size_t before = 0;
        for (const Product& product : products) {
            const std::size_t unit = product.feeds_product ? kColumnGroup : kRowUnit;
            const std::size_t rows = product.W->rows, units = ceil_divide(rows, unit), length = cost(product);
            const auto row = [&](std::size_t piece) {
                const std::size_t mark = total * piece / division.pieces;
                if (mark <= before) return std::size_t{0};
                return mark >= before + length ? rows : std::min(rows, (units * (mark - before) + length / 2) / length * unit);
            };
            multiply_part(product, count, {row(part.begin), row(part.end)});
            before += length;
        }
    });
}

void Engine::multiply_part(const Product& product, std::size_t count, Range rows) const {
    if (rows.begin >= rows.end) return;
    multiply(*product.W, *product.x, count, product.out->row(0), product.out->stride(), rows);
    for (std::size_t m = 0; m < count; ++m) {
        if (product.finish) operations().apply(*product.finish, product.out->row(m), rows.begin, rows.end);
        if (product.feeds_product && quantized_) product.out->quantize(m, rows);
    }
}

template <typename Body>
void Engine::hand_out_rows(const Worker& worker, const Matrix& W, std::size_t count, const Body& body) const {
    const Division division(worker, W.bytes, count);
    const std::size_t rows = W.rows, units = ceil_divide(rows, kRowUnit);
    worker.hand_out(division.pieces, division.single, [&](Range part) {
        const auto row = [&](std::size_t piece) { return std::min(rows, units * piece / division.pieces * kRowUnit); };
        if (row(part.begin) < row(part.end)) body(Range{row(part.begin), row(part.end)});
    });
}

std::unique_ptr<Engine> make_engine(const std::string& arch, const ModelSizes& sizes, Weights weights, std::size_t threads,
                                    bool quantize_activations) {
    for (const auto& engine : kEngines) {
        if (arch == engine.arch) return engine.make(sizes, std::move(weights), threads, quantize_activations);
    }
    throw std::invalid_argument("there is no engine for " + arch);
}

}  // namespace rwkvquant
