// The engine, as Python sees it. Sizes are checked once more here, because below are raw pointers into a file.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "engine.h"

namespace nb = nanobind;

namespace rwkvquant {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::size_t kMaxWeights = std::size_t{1} << 40;  // of a matrix; below it no product of sizes overflows
constexpr std::size_t kMaxThreads = 1024;

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

void require(bool holds, const std::string& what, const std::string& rule) {
    if (!holds) throw nb::value_error(("[engine] " + what + ": " + rule).c_str());
}

std::size_t size_at(const nb::dict& tensor, const char* key, const std::string& what) {
    require(tensor.contains(key), what, std::string("lacks ") + key);
    return nb::cast<std::size_t>(tensor[key]);
}

// One tensor of the table: its numbers, and the arrays that must be as long as the numbers say.
class Tensor {
  public:
    Tensor(std::string name, const nb::dict& table, std::vector<Bytes>& kept) : name_(std::move(name)), table_(table), kept_(kept) {
        rows = number("rows"), cols = number("cols");
        require(rows > 0 && cols > 0 && rows < kMaxWeights && cols < kMaxWeights / rows, name_, "sizes out of range");
        codec = nb::cast<std::string>(table_["codec"]);
    }

    // Below 2**31, so that neither an int nor what is rounded up to whole groups overflows.
    std::size_t number(const char* key) const {
        const std::size_t value = size_at(table_, key, name_);
        require(value < std::size_t{1} << 31, name_, std::string(key) + " must be below 2**31; got " + std::to_string(value));
        return value;
    }

    const std::uint8_t* array(const char* suffix, std::size_t bytes) {
        const nb::dict arrays = nb::cast<nb::dict>(table_["arrays"]);
        require(arrays.contains(suffix), name_, std::string("lacks the array ") + suffix);
        const Bytes array = nb::cast<Bytes>(arrays[suffix]);
        const std::string rule = std::string(suffix) + " must hold " + std::to_string(bytes) + " bytes";
        const std::string came = "; got " + std::to_string(array.shape(0));
        require(array.shape(0) >= bytes, name_, rule + came);
        kept_.push_back(array);
        total += array.shape(0);
        return array.data();
    }

    void check(bool holds, const char* rule) const { require(holds, name_, rule); }

    std::size_t rows, cols, total = 0;  // total: bytes of the arrays taken so far
    std::string codec;

  private:
    std::string name_;
    const nb::dict& table_;
    std::vector<Bytes>& kept_;
};

Weight weight_of(Tensor tensor) {
    Matrix W;
    W.rows = tensor.rows, W.cols = tensor.cols;
    const std::size_t blocks = ceil_divide(W.rows, 16);
    if (tensor.codec == "dense" || tensor.codec == "bfloat") {
        const bool bfloat = tensor.codec == "bfloat";
        W.bits = static_cast<int>(tensor.number("bits"));
        tensor.check(W.bits == 16 || (W.bits == 32 && !bfloat), "dense values have 16 or 32 bits");
        W.codec = bfloat ? Codec::kBfloat : W.bits == 16 ? Codec::kHalf : Codec::kFloat;
        W.codes = tensor.array("values", W.rows * W.cols * static_cast<std::size_t>(W.bits) / 8);
        return {W, tensor.total};
    }
    const std::size_t bits = tensor.number("bits");
    W.bits = static_cast<int>(bits);
    W.tile_cols = static_cast<int>(tensor.number("tile_cols"));
    tensor.check(W.tile_cols == 32 || (W.tile_cols == 64 && tensor.codec == "uniform"), "tiles are 64 or 32 columns wide");
    const auto code_bytes = [&](std::size_t columns) {
        const std::size_t tile = static_cast<std::size_t>(W.tile_cols);
        return blocks * 16 * ceil_divide(columns, tile) * tile * bits / 8;
    };
    if (tensor.codec == "uniform") {
        W.codec = Codec::kUniform;
        W.group_size = tensor.number("group_size");
        W.symmetric = tensor.number("symmetric") != 0;
        W.scale_bits = static_cast<int>(tensor.number("scale_bits"));
        tensor.check(bits >= 1 && bits <= 8, "codes have 1 to 8 bits");
        tensor.check(W.scale_bits == 8 || W.scale_bits == 16, "scales have 8 or 16 bits");
        const bool whole = W.group_size > 0 && W.group_size <= std::size_t{1} << 20 &&
            W.group_size % static_cast<std::size_t>(W.tile_cols) == 0;
        tensor.check(whole, "a group is a whole number of tiles, at most 2**20 columns");
        const std::size_t groups = ceil_divide(W.cols, W.group_size);
        W.codes = tensor.array("codes", code_bytes(W.cols));
        W.scales = tensor.array("scales", blocks * 16 * groups * static_cast<std::size_t>(W.scale_bits) / 8);
        if (W.scale_bits == 8) W.row_scale = tensor.array("row_scale", blocks * 32);
        if (!W.symmetric) W.zeros = tensor.array("zeros", blocks * groups * 2 * bits);
        return {W, tensor.total};
    }
    W.group_rows = tensor.number("group_rows");
    if (tensor.codec == "codebook") {
        W.codec = Codec::kCodebook;
        W.rank = static_cast<int>(tensor.number("rank"));
        W.shift = static_cast<int>(tensor.number("shift"));
        tensor.check(bits >= 2 && bits <= 4, "codebook codes have 2 to 4 bits");
        const bool fits = (W.group_rows == 2 || W.group_rows == 4 || W.group_rows == 8 || W.group_rows == 16) &&
            1u << bits <= 4 * W.group_rows;
        tensor.check(fits, "2, 4, 8 or 16 rows share a table that fits their lane");
        tensor.check(W.rank >= 0 && W.rank <= 8 && W.shift >= 0 && W.shift <= 14, "rank is 0 to 8 and shift 0 to 14");
        const std::size_t tables = blocks * ceil_divide(W.cols, 32) * (16 / W.group_rows), entries = std::size_t{1} << bits;
        const std::size_t rank = static_cast<std::size_t>(W.rank);
        W.codes = tensor.array("codes", code_bytes(W.cols));
        if (rank == 0) {
            W.codebooks = tensor.array("codebooks", tables * entries);
        } else {
            W.coefficients = tensor.array("coefficients", tables * rank);
            W.basis = tensor.array("basis", rank * entries);
        }
    } else {
        tensor.check(tensor.codec == "pairs", "the codec is uniform, codebook, pairs, bfloat or dense");
        W.codec = Codec::kPairs;
        tensor.check(bits >= 4 && bits <= 8, "pair codes have 4 to 8 bits");
        tensor.check(W.group_rows > 0 && W.group_rows % 16 == 0, "group_rows of pairs is a multiple of 16");
        W.codes = tensor.array("codes", code_bytes(ceil_divide(W.cols, 2)));
        W.codebooks = tensor.array("codebooks", ceil_divide(W.rows, W.group_rows) * 2 * (std::size_t{1} << bits));
    }
    W.row_scale = tensor.array("row_scale", blocks * 32);
    return {W, tensor.total};
}

Embedding embedding_of(Tensor tensor) {
    Embedding embedding;
    const std::size_t bits = tensor.number("bits");
    if (tensor.codec == "dense" || tensor.codec == "bfloat") {
        const bool bfloat = tensor.codec == "bfloat";
        tensor.check(bits == 16 || (bits == 32 && !bfloat), "dense values have 16 or 32 bits");
        embedding.kind = bfloat ? Embedding::Kind::kBfloat : bits == 16 ? Embedding::Kind::kHalf : Embedding::Kind::kFloat;
        embedding.values = tensor.array("values", tensor.rows * tensor.cols * bits / 8);
        return embedding;
    }
    tensor.check(tensor.codec == "rows" && bits >= 1 && bits <= 8, "an embedding is dense or uniform rows of 1 to 8 bits");
    embedding.kind = Embedding::Kind::kPacked;
    PackedRow& row = embedding.first_row;
    row.bits = static_cast<int>(bits);
    row.cols = tensor.cols;
    row.group_size = tensor.number("group_size");
    row.scale_bits = static_cast<int>(tensor.number("scale_bits"));
    tensor.check(row.scale_bits == 8 || row.scale_bits == 16, "scales have 8 or 16 bits");
    tensor.check(row.group_size > 0, "a group has columns");
    embedding.code_bytes = ceil_divide(tensor.cols, kColumnGroup) * kColumnGroup * bits / 8;
    embedding.groups = ceil_divide(tensor.cols, row.group_size);
    row.codes = tensor.array("codes", tensor.rows * embedding.code_bytes);
    row.scales = tensor.array("scales", tensor.rows * embedding.groups * static_cast<std::size_t>(row.scale_bits) / 8);
    if (row.scale_bits == 8) row.row_scale = tensor.array("row_scale", tensor.rows * 2);
    if (tensor.number("symmetric") == 0) row.zeros = tensor.array("zeros", tensor.rows * embedding.groups);
    return embedding;
}

// An engine and the arrays it points into.
class BoundEngine {
  public:
    BoundEngine(const std::string& arch, const nb::dict& sizes, const nb::dict& matrices, const nb::dict& vectors,
                const nb::dict& embedding,
                std::size_t threads, bool quantize_activations) {
        const auto size = [&](const char* key) {
            const std::size_t value = size_at(sizes, key, "sizes");
            require(value > 0 && value < std::size_t{1} << 31, key, "must lie in 1 to 2**31 - 1");
            return value;
        };
        const ModelSizes model = {size("layers"), size("width"), size("hidden"), size("vocab"), size("heads"), size("head_size")};
        require(model.heads * model.head_size == model.width, "sizes", "heads times head_size is the width");
        require(threads > 0 && threads <= kMaxThreads, "threads", "must lie in 1 to 1024; got " + std::to_string(threads));
        Weights weights;
        for (const auto [key, value] : matrices) {
            const std::string name = nb::cast<std::string>(key);
            const nb::dict table = nb::cast<nb::dict>(value);
            weights.matrices[name] = weight_of(Tensor(name, table, kept_));
        }
        for (const auto [key, value] : vectors) {
            const ReadFloats array = nb::cast<ReadFloats>(value);
            Buffer<float> copy(array.size());
            std::memcpy(copy.data(), array.data(), array.size() * sizeof(float));
            weights.vectors[nb::cast<std::string>(key)] = std::move(copy);
        }
        Tensor table("emb.weight", embedding, kept_);
        require(table.rows == model.vocab && table.cols == model.width, "emb.weight", "has one row of the width for each token");
        weights.embedding = embedding_of(table);
        require(arch == "rwkv7" || arch == "rwkv6", "arch", "is rwkv7 or rwkv6");
        const auto make = arch == "rwkv7" ? make_rwkv7 : make_rwkv6;
        try {
            engine_ = make(model, std::move(weights), threads, quantize_activations);
        } catch (const std::invalid_argument& error) {
            throw nb::value_error((std::string("[engine] ") + error.what()).c_str());
        }
    }

    // `sequences` are (tokens, slot) in the order of their tokens; `wanted` the tokens whose logits are written, one row each.
    void forward(const Indices& tokens, const std::vector<std::tuple<std::size_t, std::size_t>>& sequences, const ReadFloats& att_shift,
                 const ReadFloats& ffn_shift, const ReadFloats& wkv, const Floats& att_shift_to, const Floats& ffn_shift_to,
                 const Floats& wkv_to, const Indices& wanted, const Floats& logits) {
        const ModelSizes& sizes = engine_->sizes;
        const std::size_t count = tokens.size();
        require(count > 0 && count <= kMaxTokens, "tokens", "a step has 1 to 64 of them; got " + std::to_string(count));
        for (std::size_t m = 0; m < count; ++m) require(tokens.data()[m] < sizes.vocab, "tokens", "lie below the vocabulary's size");

        const auto state = [&](const auto& att, const auto& ffn, const auto& heads) {
            const std::size_t shift = sizes.layers * sizes.width;
            const std::size_t batch = att.size() / shift;
            const bool fits = batch > 0 && att.size() == batch * shift && ffn.size() == att.size() &&
                heads.size() == att.size() * sizes.head_size;
            require(fits, "state", "its arrays are those of kernels/state.py for the model's sizes");
            return StateArrays{const_cast<float*>(att.data()), const_cast<float*>(ffn.data()), const_cast<float*>(heads.data()), batch};
        };
        Step step = {};
        step.from = state(att_shift, ffn_shift, wkv), step.to = state(att_shift_to, ffn_shift_to, wkv_to);
        require(step.from.batch == step.to.batch, "state", "both have as many sequences");

        std::vector<Sequence> parts;
        std::vector<bool> used(step.from.batch);
        std::size_t covered = 0;
        for (const auto& [length, slot] : sequences) {
            require(length > 0 && length <= count - covered, "sequences", "cover the tokens once");
            require(slot < step.from.batch && !used[slot], "sequences", "each have a state of their own");
            used[slot] = true;
            parts.push_back({covered, length, slot});
            covered += length;
        }
        require(covered == count, "sequences", "cover the tokens once");
        for (std::size_t j = 0; j < wanted.size(); ++j) require(wanted.data()[j] < count, "wanted", "are tokens of the step");
        require(wanted.size() <= count && logits.size() == wanted.size() * sizes.vocab, "logits", "have one row for each wanted token");

        step.tokens = {tokens.data(), count};
        step.sequences = parts;
        step.wanted = {wanted.data(), wanted.size()};
        step.logits = logits.data();
        const nb::gil_scoped_release released;
        engine_->forward(step);
    }

  private:
    std::vector<Bytes> kept_;  // before the engine: destroyed after it
    std::unique_ptr<Engine> engine_;
};

}  // namespace

void bind_engine(nb::module_& module) {
    using namespace nb::literals;
    module.attr("MAX_TOKENS") = kMaxTokens;
    nb::class_<BoundEngine>(module, "Engine", "A whole model; runtime/engines/native.py is its only caller.")
        .def(nb::init<const std::string&, const nb::dict&, const nb::dict&, const nb::dict&, const nb::dict&, std::size_t, bool>(),
             "arch"_a,
             "sizes"_a, "matrices"_a, "vectors"_a, "embedding"_a, "threads"_a, "quantize_activations"_a)
        .def("forward", &BoundEngine::forward, "tokens"_a, "sequences"_a, "att_shift"_a, "ffn_shift"_a, "wkv"_a,
             "att_shift_to"_a.noconvert(),
             "ffn_shift_to"_a.noconvert(), "wkv_to"_a.noconvert(), "wanted"_a, "logits"_a.noconvert());
}

}  // namespace rwkvquant
