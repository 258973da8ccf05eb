// RWKV-7 "Goose" (x070), top to bottom; the definition is kernels/rwkv7.py, and the names are its names.
//
//     C  width    F  hidden width    H  heads    N  head size    R*  ranks of the LoRA pairs    M  tokens of the step
//
// A block has seven barriers, with their numbers in comments. Between two barriers a thread works on its own columns, tokens, heads or rows.
// A product with a matrix stored by columns has one more, and so has a norm of many tokens.
#include "bodies.h"
#include "engine.h"

namespace rwkvquant {
namespace {

constexpr float kHeadNormEps = 64e-5f;

class Rwkv7 final : public Engine {
  public:
    Rwkv7(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations)
        : Engine(sizes, std::move(weights), threads, quantize_activations), scratch_stride_((sizes.head_size + 15) / 16 * 16) {
        const std::size_t C = sizes.width, F = sizes.hidden;
        for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
            const std::string block = "blocks." + std::to_string(layer) + ".";
            const auto matrix = [&](const char* name, std::size_t rows, std::size_t cols) { return weights_.matrix(block + name, rows,
                                                                                                                   cols); };
            const auto vector = [&](const char* name) { return weights_.vector(block + name, C); };
            const auto pair = [&](const std::string& down, const std::string& up) {
                const std::size_t rank = weights_.rank(block + down);
                return Pair{weights_.matrix(block + down, rank, C), weights_.matrix(block + up, C, rank), rank};
            };
            Layer& W = layers_.emplace_back();
            W.ln1 = norm(block + "ln1"), W.ln2 = norm(block + "ln2"), W.ln_x = norm(block + "att.ln_x");
            W.x_r = vector("att.x_r"), W.x_w = vector("att.x_w"), W.x_k = vector("att.x_k");
            W.x_v = vector("att.x_v"), W.x_a = vector("att.x_a"), W.x_g = vector("att.x_g");
            W.r = matrix("att.receptance.weight", C, C), W.k = matrix("att.key.weight", C, C);
            W.v = matrix("att.value.weight", C, C), W.o = matrix("att.output.weight", C, C);
            W.w = pair("att.w1", "att.w2"), W.a = pair("att.a1", "att.a2"), W.g = pair("att.g1", "att.g2");
            W.w0 = vector("att.w0"), W.a0 = vector("att.a0");
            if (layer > 0) W.v_gate = pair("att.v1", "att.v2"), W.v0 = vector("att.v0");
            W.k_k = vector("att.k_k"), W.k_a = vector("att.k_a"), W.r_k = vector("att.r_k");
            W.ffn_x_k = vector("ffn.x_k");
            W.ffn_key = matrix("ffn.key.weight", F, C), W.ffn_value = weights_.matrix(block + "ffn.value.weight", C, F, true);
            for (const auto& [vectors, rank] : {std::pair{&w_hidden_, W.w.rank}, {&a_hidden_, W.a.rank}, {&v_hidden_, W.v_gate.rank},
                                                {&g_hidden_, W.g.rank}}) {
                if (vectors->cols() == 0 && rank > 0) *vectors = Vectors(rank);
                if (rank > 0 && vectors->cols() != rank) {
                    throw std::invalid_argument("a LoRA pair must have one rank in all layers (" + block + "att)");
                }
            }
        }
        for (Vectors* rounded : {&xr_, &xw_, &xk_, &xv_, &xa_, &xg_}) *rounded = Vectors(C);
        for (Vectors* plain : {&r_, &k_, &v_, &v_first_}) *plain = Vectors(C, false);
        ffn_hidden_ = Vectors(F);
        vectors_.insert(vectors_.end(), {&xr_, &xw_, &xk_, &xv_, &xa_, &xg_, &r_, &k_, &v_, &v_first_, &w_hidden_, &a_hidden_, &v_hidden_,
                                         &g_hidden_, &ffn_hidden_});
        for (const Layer& W : layers_) {
            for (const auto& [matrix, x] : {Read{W.r, &xr_}, {W.k, &xk_}, {W.v, &xv_}, {W.o, &out_}, {W.w.down, &xw_}, {W.a.down, &xa_},
                                            {W.g.down, &xg_}, {W.w.up, &w_hidden_}, {W.a.up, &a_hidden_}, {W.g.up, &g_hidden_},
                                            {W.ffn_key, &xk_}, {W.ffn_value, &ffn_hidden_}}) {
                take_input(*matrix, *x);
            }
            if (W.v_gate.up != nullptr) take_input(*W.v_gate.down, xv_), take_input(*W.v_gate.up, v_hidden_);
        }
        scratch_ = Buffer<float>(threads * kScratch * scratch_stride_);
    }

  private:
    struct Pair {
        const Matrix *down = nullptr, *up = nullptr;  // (R, C), (C, R)
        std::size_t rank = 0;
    };
    struct Layer {
        Norm ln1, ln2, ln_x;                               // (C,)
        const float *x_r, *x_w, *x_k, *x_v, *x_a, *x_g;    // (C,)
        const Matrix *r, *k, *v, *o;                       // (C, C)
        Pair w, a, v_gate, g;                              // v_gate not in the first layer
        const float *w0, *a0, *v0 = nullptr, *k_k, *k_a;   // (C,)
        const float* r_k;                                  // (H, N)
        const float* ffn_x_k;                              // (C,)
        const Matrix *ffn_key, *ffn_value;                 // (F, C), (C, F)
    };

    void block(const Worker& worker, const Step& step, std::size_t layer) override {
        const Layer& W = layers_[layer];
        const std::size_t count = step.tokens.size();
        const Vectors& y = branch_;

        normalize(worker, W.ln1, x_, count, y);  // (M, C)
        const Mix mixes[] = {{&xr_, W.x_r}, {&xw_, W.x_w}, {&xk_, W.x_k}, {&xv_, W.x_v}, {&xa_, W.x_a}, {&xg_, W.x_g}};
        hand_out_tokens(worker, count, [&](const Part& part) { mix(step, layer, step.from.att_shift, y, mixes, part); });  // (M, C)
        worker.barrier();  // 1

        remember(step, y, layer, &StateArrays::att_shift, own_columns(worker));
        // The first factors of the LoRA pairs come before the projections: the line of work is then cut inside a large matrix.
        const bool first = layer == 0;
        const Product products[] = {
            {W.g.down, &xg_, &g_hidden_, Function::kSigmoid, true},  // (M, Rg)
            {W.w.down, &xw_, &w_hidden_, Function::kTanh, true},     // (M, Rw)
            {W.a.down, &xa_, &a_hidden_, {}, true},                  // (M, Ra)
            {W.r, &xr_, &r_},                                        // (M, C), as k and v
            {W.k, &xk_, &k_},
            {W.v, &xv_, first ? &v_first_ : &v_},
            {W.v_gate.down, &xv_, &v_hidden_, {}, true},             // (M, Rv)
        };
        multiply_all(worker, std::span(products).first(first ? 6 : 7), count);
        worker.barrier();  // 2

        const Input ups[] = {{W.w.up, &w_hidden_}, {W.a.up, &a_hidden_}, {W.g.up, &g_hidden_}, {W.v_gate.up, &v_hidden_}};
        transform(worker, std::span(ups).first(first ? 3 : 4), count);
        hand_out_columns(worker, count, [&](Range part) {
            multiply(*W.w.up, w_hidden_, count, w_.row(0), w_.stride(), part);  // (M, C) each
            multiply(*W.a.up, a_hidden_, count, a_.row(0), a_.stride(), part);
            multiply(*W.g.up, g_hidden_, count, g_.row(0), g_.stride(), part);
            if (!first) multiply(*W.v_gate.up, v_hidden_, count, v_gate_.row(0), v_gate_.stride(), part);
            for (std::size_t head = part.begin / sizes.head_size; head < part.end / sizes.head_size; ++head) {
                for (const Sequence& sequence : step.sequences) heads(worker, step, sequence, layer, head);  // (M, C) -> out_
            }
            quantize(out_, count, part);
        });
        worker.barrier();  // 3

        add_branch(worker, *W.o, out_, nullptr, count);
        worker.barrier();  // 4

        normalize(worker, W.ln2, x_, count, y);
        const Mix channel[] = {{&xk_, W.ffn_x_k}};
        hand_out_tokens(worker, count, [&](const Part& part) { mix(step, layer, step.from.ffn_shift, y, channel, part); });
        worker.barrier();  // 5

        remember(step, y, layer, &StateArrays::ffn_shift, own_columns(worker));
        const Product hidden[] = {{W.ffn_key, &xk_, &ffn_hidden_, Function::kSquaredRelu, !is_by_columns(*W.ffn_value)}};  // (M, F)
        multiply_all(worker, hidden, count);
        worker.barrier();  // 6

        add_branch(worker, *W.ffn_value, ffn_hidden_, nullptr, count);
        worker.barrier();  // 7
    }

    // One head of one sequence, token by token, so that its state stays in the cache.
    void heads(const Worker& worker, const Step& step, const Sequence& sequence, std::size_t layer, std::size_t head) const {
        const Operations& ops = operations();
        const Layer& W = layers_[layer];
        const std::size_t N = sizes.head_size, at = head * N;
        float* scratch = scratch_.data() + worker.index * kScratch * scratch_stride_;
        const auto piece = [&](std::size_t index) { return scratch + index * scratch_stride_; };
        const Head7 inputs = {piece(0), piece(1), piece(2), piece(3), piece(4)};
        float* o = piece(5);
        for (std::size_t m = sequence.first; m < sequence.first + sequence.count; ++m) {
            const HeadState S = head_state(worker, step, layer, sequence.slot, head, m == sequence.first);  // (N, N)
            const float* v = (layer == 0 ? v_first_ : v_).row(m) + at;
            const float* v_gate = layer == 0 ? nullptr : v_gate_.row(m) + at;
            const float* v0 = layer == 0 ? nullptr : W.v0 + at;
            ops.keys7({k_.row(m) + at, v, w_.row(m) + at, a_.row(m) + at, v_gate, W.w0 + at, W.a0 + at, v0, W.k_k + at, W.k_a + at,
                       v_first_.row(m) + at},
                      inputs, N);
            ops.wkv7(S.from, S.to, r_.row(m) + at, inputs, N, o);
            keep(S);
            float* y = out_.row(m) + at;
            ops.layer_norm(o, W.ln_x.weight + at, W.ln_x.bias + at, N, kHeadNormEps, 0, N, y);
            ops.bonus7(r_.row(m) + at, inputs.k, W.r_k + at, inputs.v, g_.row(m) + at, N, y);
        }
    }

    static constexpr std::size_t kScratch = 6;

    std::vector<Layer> layers_;
    Vectors xr_, xw_, xk_, xv_, xa_, xg_, r_, k_, v_, v_first_;                          // (M, C)
    Vectors w_hidden_, a_hidden_, v_hidden_, g_hidden_;                                  // (M, R)
    Vectors ffn_hidden_;                                                                 // (M, F)
    Vectors &w_ = xw_, &a_ = xa_, &v_gate_ = xv_, &g_ = xg_, &out_ = xr_;                // in memory that is free by then
    std::size_t scratch_stride_;
    Buffer<float> scratch_;  // (threads, kScratch, N)
};

}  // namespace

std::unique_ptr<Engine> make_rwkv7(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations) {
    return std::make_unique<Rwkv7>(sizes, std::move(weights), threads, quantize_activations);
}

}  // namespace rwkvquant
