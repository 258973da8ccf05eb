// What the engines of all architectures share: weights by name, the tokens of one step, and the products that all threads do together.
//
//     L  layers    C  width    F  hidden width    V  vocabulary    H  heads    N  head size
//     M  tokens of a step: one each of many sequences (decoding), many of one sequence (prefill), or any mixture
//
// A step is one function on all threads. Each thread gets columns in multiples of 64 and rows in multiples of 32, and each token is
// computed as if it were alone. So logits are the same bits for any number of threads, of sequences in a step, and of tokens in a step.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "buffer.h"
#include "matrix.h"
#include "prefetch.h"
#include "shares.h"
#include "steps.h"
#include "thread_pool.h"

namespace rwkvquant {

constexpr std::size_t kMaxTokens = 512;    // of a step; a model may have fewer, see Engine::step_tokens
constexpr std::size_t kColumnGroup = 64;   // columns that share an activation scale
constexpr std::size_t kManyTokens = 4;     // from this number on a product is limited by arithmetic, not by memory

struct ModelSizes {
    std::size_t layers, width, hidden, vocab, heads, head_size;
};

// All weights of a model. Matrices and embedding point into the file; vectors are copies in float32.
class Weights {
  public:
    std::unordered_map<std::string, Matrix> matrices;
    std::unordered_map<std::string, Buffer<float>> vectors;
    Matrix embedding;  // of a codec that decodes rows

    // All throw std::invalid_argument, with the name of the tensor, if it is missing or has another shape.
    // Only where the input of the product is never negative (`nonnegative`) may a matrix be stored by columns.
    const Matrix* matrix(const std::string& name, std::size_t rows, std::size_t cols, bool nonnegative = false) const;
    const float* vector(const std::string& name, std::size_t size) const;
    std::size_t rank(const std::string& name) const;  // the rows of a LoRA factor
};

// Activation vectors (count, cols) in float32 and, for the quantised products, in int8 with a scale and two sums for each 64 columns.
class Vectors {
  public:
    // Vectors that are not `rounded` have no memory for int8.
    explicit Vectors(std::size_t cols = 0, bool rounded = true);
    void reserve(std::size_t count);
    std::size_t bytes() const;  // of one vector

    float* row(std::size_t b) const { return x_.data() + b * padded_; }
    // Makes int8 of columns. columns.begin is a multiple of 64, columns.end too unless it is the last. Nothing, if only T x is read.
    void quantize(std::size_t b, Range columns) const;
    void read_by(const Matrix& W) { (W.transform ? transformed_ : as_is_) = true; }
    Activations view(std::size_t count, bool quantized) const { return view_from(0, count, quantized); }
    Activations view_from(std::size_t first, std::size_t count, bool quantized) const;
    std::size_t cols() const { return cols_; }
    std::size_t stride() const { return padded_; }

  private:
    std::size_t cols_, padded_, groups_, capacity_ = 0;
    bool rounded_, transformed_ = false, as_is_ = false;  // the last two: whether a product reads T x, and x
    std::size_t together_;
    Buffer<float> x_, scale_;
    Buffer<std::int8_t> q_;
    Buffer<std::int32_t> minus_sum_;
};

// The recurrent state of `batch` sequences, as kernels/state.py has it: shifts (L, batch, C), wkv (L, batch, H, N, N). Or wkv is null, and
// its matrices are rows of bytes (L, batch, H, N, row_bytes): 3 N / 2 + 4 in 12 bits a value, kernels/state_rows.py; N + 4 in 8 bits,
// kernels/state_rotated.py.
struct StateArrays {
    float *att_shift, *ffn_shift, *wkv;
    std::size_t batch;
    std::uint8_t* rows;
    std::size_t row_bytes;
};

// Consecutive tokens of one sequence: `count` tokens of the step from `first` on. `slot` is the number of its state.
struct Sequence {
    std::size_t first, count, slot;
};

struct Step {
    std::span<const std::uint32_t> tokens;     // (M,)
    std::span<const Sequence> sequences;       // cover the tokens in their order
    StateArrays from, to;                      // may be the same
    std::span<const std::uint32_t> wanted;     // the tokens whose logits are written
    float* logits;                             // (wanted, V)
};

class Engine {
  public:
    virtual ~Engine() = default;

    // Reads the tokens of a step and writes states and logits. One step at a time; other callers wait.
    void forward(const Step& step);

    // How many tokens a step of this model may have, at most kMaxTokens. Each tile is decoded once for all of them, so more are better;
    // but their activations are in memory, and should be little beside the weights.
    std::size_t step_tokens() const;

    // The threads of a step: fewer than asked for where the system gives fewer.
    std::size_t threads() const { return pool_.threads(); }

    // The share of the work of each thread; fixed for tests and benchmarks, see shares.h.
    std::vector<double> shares() const;
    bool fix_shares(std::span<const double> shares);

    // How far ahead the products ask for memory, by the name of each kind of matrix that the model has, and where that comes from: prefetch.h.
    std::map<std::string, Ahead> prefetch() const;
    std::string prefetch_source() const;
    void fix_prefetch(std::optional<Ahead> ahead);

    const ModelSizes sizes;

  protected:
    Engine(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations);

    // One block: x_ is its input and becomes its output.
    virtual void block(const Worker& worker, const Step& step, std::size_t layer) = 0;

    struct Norm {
        const float *weight, *bias;
    };
    Norm norm(const std::string& name) const;

    // out[b] = finish(W x[b]), quantised again if another product reads it.
    struct Product {
        const Matrix* W;
        const Vectors* x;
        const Vectors* out;
        std::optional<Function> finish = {};
        bool feeds_product = false;
    };
    // The next three make what inputs their matrices need (`transform`), so they come after a barrier; `multiply` does not.
    // All products together: a thread's part is a run of rows through the list.
    void multiply_all(const Worker& worker, std::span<const Product> products, std::size_t count) const;
    void multiply_one(const Worker& worker, const Matrix& W, const Vectors& x, std::size_t count, float* out, std::size_t stride) const;
    void multiply(const Matrix& W, const Vectors& x, std::size_t count, float* out, std::size_t stride, Range rows) const;
    // x_ += gate * (W y); without `gate` if it is null
    void add_branch(const Worker& worker, const Matrix& W, const Vectors& y, const Vectors* gate, std::size_t count);
    // Memory for T x of each matrix with a transform, to be asked for when the engine is made: products find it by W and x. Matrices with the
    // same input and the same T share it.
    void take_input(const Matrix& W, Vectors& x);
    struct Read {
        const Matrix* W;
        Vectors* x;
    };
    struct Input {
        const Matrix* W;
        const Vectors* x;
    };
    // Makes T x for products that follow, each T x once. If there is any, all threads wait at the end. After a barrier.
    void transform(const Worker& worker, std::span<const Input> inputs, std::size_t count) const;
    bool is_by_columns(const Matrix& W) const;  // then its product reads no int8 activations

    // A part of an operation on all elements of (M, C): some columns of some tokens.
    struct Part {
        Range tokens, columns;
    };
    // Calls body(part) for all tokens and columns. For few tokens a part is the thread's columns of all of them, the same in every call:
    // whole groups of activations and whole heads. For many tokens it is some tokens, because what needs whole rows, such as a mean, is
    // then done once and not by each thread; half of the tokens are handed out.
    template <typename Body>
    void hand_out_tokens(const Worker& worker, std::size_t count, const Body& body) const {
        if (count < kManyTokens) return body(Part{{0, count}, worker.share(sizes.width, column_unit_)});
        const std::size_t each = std::clamp<std::size_t>(count / (4 * worker.threads), 1, 8), pieces = (count + each - 1) / each;
        worker.hand_out(pieces, pieces / 2, [&](Range part) {
            body(Part{{part.begin * each, std::min(count, part.end * each)}, {0, sizes.width}});
        });
    }
    // Calls body(range of columns) for all columns, in pieces of whole groups and heads; for many tokens half of them are handed out.
    template <typename Body>
    void hand_out_columns(const Worker& worker, std::size_t count, const Body& body) const {
        const std::size_t pieces = (sizes.width + column_unit_ - 1) / column_unit_;
        worker.hand_out(pieces, count < kManyTokens ? 0 : pieces / 2, [&](Range part) {
            body(Range{part.begin * column_unit_, std::min(sizes.width, part.end * column_unit_)});
        });
    }
    // y[m] = ln(x[m]). For many tokens all threads wait at the end of it.
    void normalize(const Worker& worker, const Norm& ln, const Vectors& x, std::size_t count, const Vectors& y) const;
    // mixed[m] = y[m] + (y[m - 1] - y[m]) (mu + lean[m]), and the same in int8. Before the first token of a sequence is `shift`, the shift
    // in its state.
    struct Mix {
        const Vectors* mixed;
        const float* mu;
        const Vectors* lean = nullptr;
    };
    void mix(const Step& step, std::size_t layer, const float* shift, const Vectors& y, std::span<const Mix> mixes, const Part& part) const;
    // Writes the row of each sequence's last token to the shift in its state. After a barrier where others read that.
    void remember(const Step& step, const Vectors& y, std::size_t layer, float* StateArrays::*shift, Range columns) const;
    Range own_columns(const Worker& worker) const { return worker.share(sizes.width, column_unit_); }
    void quantize(const Vectors& y, std::size_t count, Range columns) const;
    // The matrix of a head before and after a token of a sequence, its first or a later one. Rows of bytes are unpacked into memory of
    // the thread; `keep` packs what the token left there.
    struct HeadState {
        const float* from;
        float* to;
        std::uint8_t* rows;  // of `to`, or null
        bool rotated;
        std::uint32_t seed;  // of the rows before the token
    };
    bool rotated(const StateArrays& state) const { return state.row_bytes == sizes.head_size + sizeof(float); }
    HeadState head_state(const Worker& worker, const Step& step, std::size_t layer, std::size_t slot, std::size_t head, bool first) const;
    void keep(const HeadState& state) const;

    Weights weights_;
    const bool quantized_;
    Vectors x_, branch_;            // the residual stream, and what a block adds to it; branch_ is free in between
    std::vector<Vectors*> vectors_;  // all that have a row for each token of a step

  private:
    void multiply_part(const Product& product, std::size_t count, Range rows) const;
    template <typename Body>
    void hand_out_rows(const Worker& worker, const Matrix& W, std::size_t count, const Body& body) const;
    void add_by_columns(const Worker& worker, const Matrix& W, const Vectors& y, const Vectors* gate, std::size_t count);
    void reserve(const Step& step);
    void reserve_columns(std::size_t count);
    std::size_t prepared_bytes() const;  // of one token
    void embed(const Worker& worker, const Step& step);
    void head(const Worker& worker, const Step& step);

    // T x of the vectors x, which W and other matrices read.
    struct Transformed {
        const Vectors* x;
        InputTransform T;
        std::unique_ptr<Vectors> y;
    };
    const Vectors& input_of(const Matrix& W, const Vectors& x) const;

    const std::size_t column_unit_;
    Norm ln0_ = {}, ln_out_ = {};
    const Matrix* head_ = nullptr;
    Vectors head_x_;
    std::vector<Transformed> transformed_;
    std::unordered_map<const Matrix*, std::size_t> own_input_;  // of a matrix with a transform, its place in transformed_
    std::size_t reserved_ = 0;
    Buffer<float> unpacked_;                       // (threads, N, N) of states in rows of bytes
    Buffer<std::uint8_t> prepared_;                // (count,) activations for matrices stored by columns: engine_columns.cpp
    Buffer<std::uint8_t> room_;                    // (threads,) of room_bytes_, for preparing them
    std::size_t room_bytes_ = 0;
    Buffer<std::int32_t> sums_;                    // (threads, 2) sums of a chunk
    std::vector<std::atomic<unsigned>> arrived_;   // (chunks,) threads that have left their part
    ThreadPool pool_;
    Shares shares_;
    std::vector<std::string> kinds_;                  // names of the kinds of matrices, in the order of Matrix::kind
    Prefetch prefetch_;
    bool timing_ = false;                             // whether the products of this step are timed
    mutable std::vector<std::atomic<std::uint64_t>> times_;  // (kinds,) of the products of this step, of all threads
    mutable std::mutex busy_;
};

// Throws std::invalid_argument for an architecture without an engine here, and for weights that do not fit its sizes.
std::unique_ptr<Engine> make_engine(const std::string& arch, const ModelSizes& sizes, Weights weights, std::size_t threads,
                                    bool quantize_activations);

}  // namespace rwkvquant
