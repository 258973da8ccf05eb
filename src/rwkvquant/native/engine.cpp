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

// A step may have this many tokens in any case, and as many as these bytes and a share of the weights' bytes hold.
constexpr std::size_t kFewestTokens = 64, kStepBytes = std::size_t{3} << 20, kStepShare = 20;

constexpr float kLayerNormEps = 1e-5f;

// Gives each matrix its kind: its codec and the width of its codes. Returns the names of the kinds, such as "uniform 3".
std::vector<std::string> number_kinds(Weights& weights) {
    std::vector<std::string> names;
    for (auto& [name, W] : weights.matrices) {
        const std::string kind = operations().codecs[W.codec]->name + (W.width > 0 ? " " + std::to_string(W.width) : "");
        W.kind = static_cast<std::size_t>(std::find(names.begin(), names.end(), kind) - names.begin());
        if (W.kind == names.size()) names.push_back(kind);
    }
    return names;
}

std::vector<std::size_t> bytes_by_kind(const Weights& weights, std::size_t kinds) {
    std::vector<std::size_t> bytes(kinds);
    for (const auto& [name, W] : weights.matrices) bytes[W.kind] += W.bytes;
    return bytes;
}

}  // namespace

Engine::Engine(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations)
    : sizes(sizes),
      weights_(std::move(weights)),
      quantized_(quantize_activations),
      x_(sizes.width, false),
      branch_(sizes.width, false),
      column_unit_(std::lcm(kColumnGroup, sizes.head_size)),
      head_x_(sizes.width),
      unpacked_(threads * sizes.head_size * sizes.head_size),
      pool_(threads),
      shares_(pool_.threads()),
      kinds_(number_kinds(weights_)),
      prefetch_(operations().isa, kinds_, bytes_by_kind(weights_, kinds_.size())),
      times_(kinds_.size()) {
    vectors_ = {&x_, &branch_};
    ln0_ = norm("blocks.0.ln0");
    ln_out_ = norm("ln_out");
    head_ = weights_.matrix("head.weight", sizes.vocab, sizes.width);
    take_input(*head_, head_x_);
}

void Engine::forward(const Step& step) {
    const std::lock_guard<std::mutex> lock(busy_);
    const std::size_t count = step.tokens.size();
    reserve(step);
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

void Engine::reserve(const Step& step) {
    const std::size_t count = step.tokens.size();
    head_x_.reserve(step.wanted.size());
    for (const Transformed& each : transformed_) each.y->reserve(each.x == &head_x_ ? step.wanted.size() : count);
    if (count <= reserved_) return;
    for (Vectors* vectors : vectors_) vectors->reserve(count);
    reserve_columns(count);
    reserved_ = count;
}

std::size_t Engine::step_tokens() const {
    std::size_t bytes = 0, token = prepared_bytes();
    for (const auto& [name, W] : weights_.matrices) bytes += W.bytes;
    for (const Vectors* vectors : vectors_) token += vectors->bytes();
    for (const Transformed& each : transformed_) token += each.y->bytes();
    constexpr std::size_t kUnit = 8;
    return std::clamp((kStepBytes + bytes / kStepShare) / token / kUnit * kUnit, kFewestTokens, kMaxTokens);
}

std::map<std::string, Ahead> Engine::prefetch() const {
    const std::lock_guard<std::mutex> lock(busy_);
    std::map<std::string, Ahead> distances;
    for (const auto& [name, W] : weights_.matrices) {
        if (!is_by_columns(W)) distances[kinds_[W.kind]] = prefetch_.ahead(W.kind);  // those ask for listed columns
    }
    return distances;
}

std::string Engine::prefetch_source() const {
    const std::lock_guard<std::mutex> lock(busy_);
    return prefetch_.source();
}

void Engine::fix_prefetch(std::optional<Ahead> ahead) {
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
    const auto decode_row = operations().codecs[weights_.embedding.codec]->decode_row;
    hand_out_tokens(worker, step.tokens.size(), [&](const Part& part) {
        for (std::size_t m = part.tokens.begin; m < part.tokens.end; ++m) {
            decode_row(weights_.embedding, step.tokens[m], part.columns.begin, part.columns.end, branch_.row(m));
        }
    });
    worker.barrier();
    normalize(worker, ln0_, branch_, step.tokens.size(), x_);
    worker.barrier();
}

void Engine::head(const Worker& worker, const Step& step) {
    const std::size_t count = step.wanted.size();
    if (count == 0) return;
    hand_out_tokens(worker, count, [&](const Part& part) {
        for (std::size_t j = part.tokens.begin; j < part.tokens.end; ++j) {
            operations().layer_norm(x_.row(step.wanted[j]), ln_out_.weight, ln_out_.bias, sizes.width, kLayerNormEps, part.columns.begin,
                                    part.columns.end, head_x_.row(j));
            if (quantized_) head_x_.quantize(j, part.columns);
        }
    });
    worker.barrier();
    multiply_one(worker, *head_, head_x_, count, step.logits, sizes.vocab);
}

Engine::Norm Engine::norm(const std::string& name) const {
    return {weights_.vector(name + ".weight", sizes.width), weights_.vector(name + ".bias", sizes.width)};
}

void Engine::normalize(const Worker& worker, const Norm& ln, const Vectors& x, std::size_t count, const Vectors& y) const {
    hand_out_tokens(worker, count, [&](const Part& part) {
        for (std::size_t m = part.tokens.begin; m < part.tokens.end; ++m) {
            operations().layer_norm(x.row(m), ln.weight, ln.bias, sizes.width, kLayerNormEps, part.columns.begin, part.columns.end, y.row(m));
        }
    });
    if (count >= kManyTokens) worker.barrier();
}

void Engine::mix(const Step& step, std::size_t layer, const float* shift, const Vectors& y, std::span<const Mix> mixes,
                 const Part& part) const {
    for (const Sequence& sequence : step.sequences) {
        const std::size_t end = std::min(part.tokens.end, sequence.first + sequence.count);
        for (std::size_t m = std::max(part.tokens.begin, sequence.first); m < end; ++m) {
            const float* before = m > sequence.first ? y.row(m - 1) : shift + (layer * step.from.batch + sequence.slot) * sizes.width;
            for (const Mix& to : mixes) {
                operations().token_shift(y.row(m), before, to.mu, to.lean != nullptr ? to.lean->row(m) : nullptr, part.columns.begin,
                                         part.columns.end, to.mixed->row(m));
                if (quantized_) to.mixed->quantize(m, part.columns);
            }
        }
    }
}

void Engine::remember(const Step& step, const Vectors& y, std::size_t layer, float* StateArrays::*shift, Range columns) const {
    if (columns.begin >= columns.end) return;
    for (const Sequence& sequence : step.sequences) {
        float* to = step.to.*shift + (layer * step.to.batch + sequence.slot) * sizes.width;
        std::memcpy(to + columns.begin, y.row(sequence.first + sequence.count - 1) + columns.begin,
                    (columns.end - columns.begin) * sizeof(float));
    }
}

void Engine::quantize(const Vectors& y, std::size_t count, Range columns) const {
    if (!quantized_) return;
    for (std::size_t m = 0; m < count; ++m) y.quantize(m, columns);
}

Engine::HeadState Engine::head_state(const Worker& worker, const Step& step, std::size_t layer, std::size_t slot, std::size_t head,
                                     bool first) const {
    const std::size_t N = sizes.head_size, index = (layer * step.from.batch + slot) * sizes.heads + head;
    const StateArrays& before = first ? step.from : step.to;
    if (before.rows == nullptr) return {before.wkv + index * N * N, step.to.wkv + index * N * N, nullptr, false, 0};
    const std::size_t bytes = N * before.row_bytes;
    const std::uint8_t* rows = before.rows + index * bytes;
    float* S = unpacked_.data() + worker.index * N * N;
    const bool eight = rotated(before);
    (eight ? operations().unpack_rotated : operations().unpack_state)(rows, N, S);
    return {S, S, step.to.rows + index * bytes, eight, eight ? operations().seed_of_rows(rows, N) : 0};
}

void Engine::keep(const HeadState& state) const {
    if (state.rows == nullptr) return;
    if (state.rotated) operations().pack_rotated(state.to, sizes.head_size, state.seed, state.rows);
    else operations().pack_state(state.to, sizes.head_size, state.rows);
}

std::unique_ptr<Engine> make_engine(const std::string& arch, const ModelSizes& sizes, Weights weights, std::size_t threads,
                                    bool quantize_activations) {
    for (const auto& engine : kEngines) {
        if (arch == engine.arch) return engine.make(sizes, std::move(weights), threads, quantize_activations);
    }
    throw std::invalid_argument("there is no engine for " + arch);
}

}  // namespace rwkvquant
