// The engine for Python. Sizes are checked again here, because the engine has raw pointers into a file.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "bindings_matrix.h"
#include "engine.h"

namespace rwkvquant {
namespace {

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
// The matrices of a state: in full, or in rows of 12 or 8 bits a value.
using Matrices = std::variant<Floats, nb::ndarray<std::uint8_t, nb::c_contig, nb::device::cpu>>;
using ReadMatrices = std::variant<ReadFloats, nb::ndarray<const std::uint8_t, nb::c_contig, nb::device::cpu>>;
using Indices = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Distances = std::pair<std::size_t, std::size_t>;  // Ahead, for Python

constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kMostAhead = 1 << 20;

void require(bool holds, const std::string& what, const std::string& rule) {
    if (!holds) throw nb::value_error(("[engine] " + what + ": " + rule).c_str());
}

std::size_t size_at(const nb::dict& tensor, const char* key, const std::string& what) {
    require(tensor.contains(key), what, std::string("lacks ") + key);
    return nb::cast<std::size_t>(tensor[key]);
}

// An engine and the arrays it points into.
class BoundEngine {
  public:
    BoundEngine(const std::string& arch, const nb::dict& sizes, const nb::dict& matrices, const nb::dict& vectors,
                const HeldMatrix& embedding, std::size_t threads, bool quantize_activations) {
        const auto size = [&](const char* key) {
            const std::size_t value = size_at(sizes, key, "sizes");
            require(value > 0 && value < std::size_t{1} << 31, key, "must lie in 1 to 2**31 - 1");
            return value;
        };
        const ModelSizes model = {size("layers"), size("width"), size("hidden"), size("vocab"), size("heads"), size("head_size")};
        require(model.heads * model.head_size == model.width, "sizes", "heads times head_size must be the width");
        require(threads > 0 && threads <= kMaxThreads, "threads", "must lie in 1 to 1024; got " + std::to_string(threads));
        Weights weights;
        for (const auto [key, value] : matrices) {
            const std::string name = nb::cast<std::string>(key);
            require(nb::isinstance<HeldMatrix>(value), name, "must be a native.Matrix");
            const HeldMatrix& held = *nb::inst_ptr<HeldMatrix>(value);
            require(held.codec().product != nullptr, name, std::string(held.codec().name) + " are read row by row and have no product");
            weights.matrices[name] = kept(held);
        }
        for (const auto [key, value] : vectors) {
            const ReadFloats array = nb::cast<ReadFloats>(value);
            Buffer<float> copy(array.size());
            std::memcpy(copy.data(), array.data(), array.size() * sizeof(float));
            weights.vectors[nb::cast<std::string>(key)] = std::move(copy);
        }
        require(embedding.codec().decode_row != nullptr, "emb.weight",
                std::string("rows of ") + embedding.codec().name + " cannot be read one by one");
        weights.embedding = kept(embedding);
        const bool fits = weights.embedding.rows == model.vocab && weights.embedding.cols == model.width;
        require(fits, "emb.weight", "must have one row of the width for each token");
        try {
            engine_ = make_engine(arch, model, std::move(weights), threads, quantize_activations);
        } catch (const std::invalid_argument& error) {
            throw nb::value_error((std::string("[engine] ") + error.what()).c_str());
        }
    }

    // `sequences`: (number of tokens, slot) of each, in the order of their tokens. `wanted`: the tokens whose logits are written, one row
    // each.
    void forward(const Indices& tokens, const std::vector<std::tuple<std::size_t, std::size_t>>& sequences, const ReadFloats& att_shift,
                 const ReadFloats& ffn_shift, const ReadMatrices& wkv, const Floats& att_shift_to, const Floats& ffn_shift_to,
                 const Matrices& wkv_to, const Indices& wanted, const Floats& logits) {
        const ModelSizes& sizes = engine_->sizes;
        const std::size_t count = tokens.size();
        require(count > 0 && count <= kMaxTokens, "tokens", "a step must have 1 to " + std::to_string(kMaxTokens) + "; got " + std::to_string(count));
        for (std::size_t m = 0; m < count; ++m) {
            require(tokens.data()[m] < sizes.vocab, "tokens", "must be below the size of the vocabulary");
        }

        const auto state = [&](const auto& att, const auto& ffn, const auto& heads) {
            const std::size_t shift = sizes.layers * sizes.width;
            const std::size_t batch = att.size() / shift;
            const std::size_t size = std::visit([](const auto& each) { return each.size(); }, heads);
            const bool in_rows = heads.index() == 1;  // N rows of bytes for each head
            const std::size_t N = sizes.head_size, row = att.size() > 0 ? size / att.size() : 0;
            const bool known = in_rows ? N % 2 == 0 && (row == N + N / 2 + sizeof(float) || row == N + sizeof(float)) : row == N;
            const bool fits = batch > 0 && att.size() == batch * shift && ffn.size() == att.size() && size == att.size() * row && known;
            require(fits, "state", "its arrays must have the shapes of kernels/state.py, kernels/state_rows.py or kernels/state_rotated.py "
                    "for the model's sizes");
            const auto* full = std::get_if<0>(&heads);
            const auto* rows = std::get_if<1>(&heads);
            return StateArrays{const_cast<float*>(att.data()), const_cast<float*>(ffn.data()),
                               full != nullptr ? const_cast<float*>(full->data()) : nullptr, batch,
                               rows != nullptr ? const_cast<std::uint8_t*>(rows->data()) : nullptr, row};
        };
        Step step = {};
        step.from = state(att_shift, ffn_shift, wkv), step.to = state(att_shift_to, ffn_shift_to, wkv_to);
        require(step.from.batch == step.to.batch, "state", "both states must have the same number of sequences");
        require(wkv.index() == wkv_to.index() && step.from.row_bytes == step.to.row_bytes, "state", "both states must have their matrices in the same form");

        std::vector<Sequence> parts;
        std::vector<bool> used(step.from.batch);
        std::size_t covered = 0;
        for (const auto& [length, slot] : sequences) {
            require(length > 0 && length <= count - covered, "sequences", "must cover each token once");
            require(slot < step.from.batch && !used[slot], "sequences", "must have slots that exist and differ from one another");
            used[slot] = true;
            parts.push_back({covered, length, slot});
            covered += length;
        }
        require(covered == count, "sequences", "must cover each token once");
        for (std::size_t j = 0; j < wanted.size(); ++j) require(wanted.data()[j] < count, "wanted", "must be tokens of the step");
        require(wanted.size() <= count && logits.size() == wanted.size() * sizes.vocab, "logits",
                "must have one row for each wanted token");

        step.tokens = {tokens.data(), count};
        step.sequences = parts;
        step.wanted = {wanted.data(), wanted.size()};
        step.logits = logits.data();
        const nb::gil_scoped_release released;
        engine_->forward(step);
    }

    std::size_t threads() const { return engine_->threads(); }
    std::size_t step_tokens() const { return engine_->step_tokens(); }
    std::map<std::string, Distances> prefetch() const {
        std::map<std::string, Distances> distances;
        for (const auto& [kind, ahead] : engine_->prefetch()) distances[kind] = {ahead.far, ahead.near};
        return distances;
    }
    std::string prefetch_source() const { return engine_->prefetch_source(); }
    void fix_prefetch(std::optional<Distances> ahead) {
        require(!ahead || std::max(ahead->first, ahead->second) <= kMostAhead, "prefetch", "must lie in 0 to " + std::to_string(kMostAhead));
        engine_->fix_prefetch(ahead ? std::optional(Ahead{ahead->first, ahead->second}) : std::nullopt);
    }
    std::vector<double> shares() const { return engine_->shares(); }
    void fix_shares(const std::vector<double>& shares) {
        require(engine_->fix_shares(shares), "shares", "must be a number above 0 for each thread, or none");
    }

  private:
    Matrix kept(const HeldMatrix& held) {
        kept_.insert(kept_.end(), held.arrays().begin(), held.arrays().end());
        return held.matrix();
    }

    std::vector<Array> kept_;  // before the engine: destroyed after it
    std::unique_ptr<Engine> engine_;
};

// For tests of the rules by which shares are chosen: a thread's speed can be anything there.
struct BoundShares {
    Shares shares;

    explicit BoundShares(std::size_t threads) : shares(threads) {
        require(threads > 0 && threads <= kMaxThreads, "threads", "must lie in 1 to 1024; got " + std::to_string(threads));
    }
    std::vector<double> values() const { return {shares.values().begin(), shares.values().end()}; }
    std::vector<std::size_t> threads() const { return shares.team().threads; }
    void learn(const std::vector<std::uint64_t>& busy, std::uint64_t time) { shares.learn(busy, time); }
};

// For tests of the rules by which distances are chosen.
struct BoundPrefetch {
    std::size_t kinds;
    Prefetch prefetch;

    BoundPrefetch(const std::string& isa, const std::vector<std::string>& kinds, const std::vector<std::size_t>& bytes)
        : kinds(kinds.size()), prefetch(isa, kinds, checked(kinds, bytes)) {}
    static const std::vector<std::size_t>& checked(const std::vector<std::string>& kinds, const std::vector<std::size_t>& bytes) {
        require(kinds.size() == bytes.size(), "prefetch", "must have the bytes of each kind");
        return bytes;
    }
    std::vector<Distances> ahead() const {
        std::vector<Distances> ahead;
        for (std::size_t k = 0; k < kinds; ++k) ahead.push_back({prefetch.ahead(k).far, prefetch.ahead(k).near});
        return ahead;
    }
    std::string source() const { return prefetch.source(); }
    void learn(const std::vector<std::uint64_t>& times) {
        require(times.size() == kinds, "prefetch", "must have a time for each kind");
        prefetch.learn(times);
    }
};

}  // namespace

void bind_engine(nb::module_& module) {
    using namespace nb::literals;
    module.attr("MAX_TOKENS") = kMaxTokens;
    nb::class_<BoundEngine>(module, "Engine", "A whole model; runtime/engines/native.py is its only caller.")
        .def(nb::init<const std::string&, const nb::dict&, const nb::dict&, const nb::dict&, const HeldMatrix&, std::size_t, bool>(),
             "arch"_a, "sizes"_a, "matrices"_a, "vectors"_a, "embedding"_a, "threads"_a, "quantize_activations"_a)
        .def("forward", &BoundEngine::forward, "tokens"_a, "sequences"_a, "att_shift"_a, "ffn_shift"_a, "wkv"_a,
             "att_shift_to"_a.noconvert(),
             "ffn_shift_to"_a.noconvert(), "wkv_to"_a.noconvert(), "wanted"_a, "logits"_a.noconvert())
        .def_prop_ro("threads", &BoundEngine::threads, "How many threads work on a step: fewer than asked for where the system gives fewer.")
        .def_prop_ro("step_tokens", &BoundEngine::step_tokens, "How many tokens a step should have at most: memory for more would be large beside the weights.")
        .def_prop_ro("prefetch", &BoundEngine::prefetch, "How far ahead products with one vector ask for memory, by kind of matrix: see Ahead in native/matrix.h.")
        .def_prop_ro("prefetch_source", &BoundEngine::prefetch_source, "table, measuring, measured or fixed: see native/prefetch.h.")
        .def("fix_prefetch", &BoundEngine::fix_prefetch, "ahead"_a.none(),
             "From now on this for every kind of matrix; with None, what the table for this CPU has.")
        .def_prop_ro("shares", &BoundEngine::shares, "The share of the work of each thread. Their sum is 1.")
        .def("fix_shares", &BoundEngine::fix_shares, "shares"_a,
             "From now on these shares of the work, in any unit; with an empty list they follow the measured speeds again.");
    nb::class_<BoundPrefetch>(module, "Prefetch", "How far ahead each kind of matrix asks for memory. See native/prefetch.h.")
        .def(nb::init<const std::string&, const std::vector<std::string>&, const std::vector<std::size_t>&>(), "isa"_a, "kinds"_a, "bytes"_a)
        .def_prop_ro("ahead", &BoundPrefetch::ahead, "(kinds,) far and near, in bytes")
        .def_prop_ro("source", &BoundPrefetch::source)
        .def("learn", &BoundPrefetch::learn, "times"_a, "(kinds,) the time of the products of each kind in a token.");
    nb::class_<BoundShares>(module, "Shares", "Which threads work on a step, and the share of each. See native/shares.h.")
        .def(nb::init<std::size_t>(), "threads"_a)
        .def_prop_ro("values", &BoundShares::values, "(threads,), their sum is 1; 0 for a thread that is left out.")
        .def_prop_ro("team", &BoundShares::threads, "The threads that work.")
        .def("learn", &BoundShares::learn, "busy"_a, "time"_a, "How long each thread of the team worked in a step, and how long that took.");
}

}  // namespace rwkvquant
