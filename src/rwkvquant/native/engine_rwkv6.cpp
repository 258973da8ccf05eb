// RWKV-6 "Finch" (x060), top to bottom; the definition is kernels/rwkv6.py, and the names are its names.
//
//     C  width    F  hidden width    H  heads    N  head size    Rm, Rd  ranks of the mix and the decay    M  tokens of the step
//
// A block has ten barriers, with their numbers in comments. Between two barriers a thread works on its own columns, tokens, heads
// or rows. A norm of many tokens has one more.
#include "bodies.h"
#include "engine.h"

namespace rwkvquant {
namespace {

constexpr float kHeadNormEps = 64e-5f;
constexpr std::size_t kMixes = 5;  // w, k, v, r, g: the order of time_maa_w1 and time_maa_w2

class Rwkv6 final : public Engine {
  public:
    Rwkv6(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations)
        : Engine(sizes, std::move(weights), threads, quantize_activations), scratch_stride_((sizes.head_size + 15) / 16 * 16) {
        const std::size_t C = sizes.width, F = sizes.hidden;
        mix_rank_ = weights_.rank("blocks.0.att.time_maa_w1") / kMixes;
        decay_rank_ = weights_.rank("blocks.0.att.time_decay_w1");
        for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
            const std::string block = "blocks." + std::to_string(layer) + ".";
            const auto matrix = [&](const std::string& name, std::size_t rows, std::size_t cols) {
                return weights_.matrix(block + name, rows, cols);
            };
            const auto vector = [&](const std::string& name) { return weights_.vector(block + name, C); };
            Layer& W = layers_.emplace_back();
            W.ln1 = norm(block + "ln1"), W.ln2 = norm(block + "ln2"), W.ln_x = norm(block + "att.ln_x");
            W.maa_x = vector("att.time_maa_x");
            W.maa_w1 = matrix("att.time_maa_w1", kMixes * mix_rank_, C);
            for (std::size_t i = 0; i < kMixes; ++i) {
                W.maa[i] = vector(std::string("att.time_maa_") + "wkvrg"[i]);
                W.maa_w2[i] = matrix("att.time_maa_w2." + std::to_string(i), C, mix_rank_);
            }
            W.r = matrix("att.receptance.weight", C, C), W.k = matrix("att.key.weight", C, C), W.v = matrix("att.value.weight", C, C);
            W.g = matrix("att.gate.weight", C, C), W.o = matrix("att.output.weight", C, C);
            W.decay = vector("att.time_decay"), W.faaaa = vector("att.time_faaaa");
            W.decay_w1 = matrix("att.time_decay_w1", decay_rank_, C), W.decay_w2 = matrix("att.time_decay_w2", C, decay_rank_);
            W.ffn_maa_k = vector("ffn.time_maa_k"), W.ffn_maa_r = vector("ffn.time_maa_r");
            W.ffn_key = matrix("ffn.key.weight", F, C), W.ffn_value = weights_.matrix(block + "ffn.value.weight", C, F, true);
            W.ffn_r = matrix("ffn.receptance.weight", C, C);
        }
        for (Vectors* rounded : {&xx_, &mixed_[0], &mixed_[1], &mixed_[2], &mixed_[3], &mixed_[4]}) *rounded = Vectors(C);
        for (Vectors* plain : {&r_, &k_, &v_, &g_, &d_}) *plain = Vectors(C, false);
        maa_hidden_ = Vectors(kMixes * mix_rank_, false);
        decay_hidden_ = Vectors(decay_rank_);
        ffn_hidden_ = Vectors(F);
        vectors_.insert(vectors_.end(), {&xx_, &r_, &k_, &v_, &g_, &d_, &maa_hidden_, &decay_hidden_, &ffn_hidden_});
        for (std::size_t i = 0; i < kMixes; ++i) {
            maa_slices_[i] = Vectors(mix_rank_);
            vectors_.insert(vectors_.end(), {&mixed_[i], &maa_slices_[i]});
        }
        auto& [xw, xk, xv, xr, xg] = mixed_;
        for (const Layer& W : layers_) {
            for (const auto& [matrix, x] : {Read{W.maa_w1, &xx_}, {W.decay_w1, &xw}, {W.decay_w2, &decay_hidden_}, {W.r, &xr}, {W.k, &xk},
                                            {W.v, &xv}, {W.g, &xg}, {W.o, &out_}, {W.ffn_key, &xk}, {W.ffn_r, &xr},
                                            {W.ffn_value, &ffn_hidden_}}) {
                take_input(*matrix, *x);
            }
            for (std::size_t i = 0; i < kMixes; ++i) take_input(*W.maa_w2[i], maa_slices_[i]);
        }
        scratch_ = Buffer<float>(threads * kScratch * scratch_stride_);
    }

  private:
    struct Layer {
        Norm ln1, ln2, ln_x;                                  // (C,)
        const float *maa_x, *maa[kMixes];                     // (C,)
        const Matrix *maa_w1, *maa_w2[kMixes];                // (5 Rm, C), (C, Rm)
        const Matrix *r, *k, *v, *g, *o;                      // (C, C)
        const float *decay, *faaaa;                           // (C,), (H, N)
        const Matrix *decay_w1, *decay_w2;                    // (Rd, C), (C, Rd)
        const float *ffn_maa_k, *ffn_maa_r;                   // (C,)
        const Matrix *ffn_key, *ffn_value, *ffn_r;            // (F, C), (C, F), (C, C)
    };

    void block(const Worker& worker, const Step& step, std::size_t layer) override {
        const Layer& W = layers_[layer];
        const std::size_t count = step.tokens.size();
        const auto& [xw, xk, xv, xr, xg] = mixed_;
        const Vectors& y = branch_;

        normalize(worker, W.ln1, x_, count, y);                                          // (M, C)
        const Mix first[] = {{&xx_, W.maa_x}};
        hand_out_tokens(worker, count, [&](const Part& part) { mix(step, layer, step.from.att_shift, y, first, part); });  // (M, C)
        worker.barrier();  // 1

        // How much each of the five inputs takes from the previous token depends on the data.
        const Product hidden[] = {{W.maa_w1, &xx_, &maa_hidden_, Function::kTanh}};  // (M, 5 Rm)
        multiply_all(worker, hidden, count);
        worker.barrier();  // 2
        slice(worker, count);                                                        // 5 x (M, Rm)
        worker.barrier();  // 3
        Input slices[kMixes];
        for (std::size_t i = 0; i < kMixes; ++i) slices[i] = {W.maa_w2[i], &maa_slices_[i]};
        transform(worker, slices, count);
        hand_out_columns(worker, count, [&](Range part) {
            for (std::size_t i = 0; i < kMixes; ++i) {
                multiply(*W.maa_w2[i], maa_slices_[i], count, d_.row(0), d_.stride(), part);  // (M, C): the lean
                const Mix one[] = {{&mixed_[i], W.maa[i], &d_}};
                mix(step, layer, step.from.att_shift, y, one, {{0, count}, part});            // (M, C)
            }
            remember(step, y, layer, &StateArrays::att_shift, part);
        });
        worker.barrier();  // 4

        const Product products[] = {
            {W.decay_w1, &xw, &decay_hidden_, Function::kTanh, true},  // (M, Rd)
            {W.r, &xr, &r_},                                           // (M, C), as k, v and g
            {W.k, &xk, &k_},
            {W.v, &xv, &v_},
            {W.g, &xg, &g_, Function::kSilu},
        };
        multiply_all(worker, products, count);
        worker.barrier();  // 5

        const Input decay[] = {{W.decay_w2, &decay_hidden_}};
        transform(worker, decay, count);
        hand_out_columns(worker, count, [&](Range part) {
            multiply(*W.decay_w2, decay_hidden_, count, d_.row(0), d_.stride(), part);  // (M, C)
            for (std::size_t head = part.begin / sizes.head_size; head < part.end / sizes.head_size; ++head) {
                for (const Sequence& sequence : step.sequences) heads(worker, step, sequence, layer, head);  // (M, C) -> out_
            }
            quantize(out_, count, part);
        });
        worker.barrier();  // 6

        add_branch(worker, *W.o, out_, nullptr, count);
        worker.barrier();  // 7

        normalize(worker, W.ln2, x_, count, y);
        const Mix both[] = {{&xk, W.ffn_maa_k}, {&xr, W.ffn_maa_r}};
        hand_out_tokens(worker, count, [&](const Part& part) { mix(step, layer, step.from.ffn_shift, y, both, part); });
        worker.barrier();  // 8

        remember(step, y, layer, &StateArrays::ffn_shift, own_columns(worker));
        const Product channel[] = {
            {W.ffn_key, &xk, &ffn_hidden_, Function::kSquaredRelu, !is_by_columns(*W.ffn_value)},  // (M, F)
            {W.ffn_r, &xr, &r_, Function::kSigmoid},                                              // (M, C)
        };
        multiply_all(worker, channel, count);
        worker.barrier();  // 9

        add_branch(worker, *W.ffn_value, ffn_hidden_, &r_, count);
        worker.barrier();  // 10
    }

    // Copies the hidden vector into five, so that each begins an activation group.
    void slice(const Worker& worker, std::size_t count) const {
        const Range own = worker.share(count * kMixes, 1);
        for (std::size_t piece = own.begin; piece < own.end; ++piece) {
            const std::size_t m = piece / kMixes, i = piece % kMixes;
            std::memcpy(maa_slices_[i].row(m), maa_hidden_.row(m) + i * mix_rank_, mix_rank_ * sizeof(float));
            if (quantized_) maa_slices_[i].quantize(m, {0, mix_rank_});
        }
    }

    // One head of one sequence, token by token, so that its state stays in the cache.
    void heads(const Worker& worker, const Step& step, const Sequence& sequence, std::size_t layer, std::size_t head) const {
        const Operations& ops = operations();
        const Layer& W = layers_[layer];
        const std::size_t N = sizes.head_size, at = head * N;
        float* w = scratch_.data() + worker.index * kScratch * scratch_stride_;
        float* o = w + scratch_stride_;
        for (std::size_t m = sequence.first; m < sequence.first + sequence.count; ++m) {
            const HeadState S = head_state(worker, step, layer, sequence.slot, head, m == sequence.first);  // (N, N)
            ops.decay6(W.decay + at, d_.row(m) + at, N, w);
            ops.wkv6(S.from, S.to, r_.row(m) + at, w, k_.row(m) + at, v_.row(m) + at, W.faaaa + at, N, o);
            keep(S);
            ops.layer_norm(o, W.ln_x.weight + at, W.ln_x.bias + at, N, kHeadNormEps, 0, N, out_.row(m) + at);
            ops.multiply(out_.row(m), g_.row(m), at, at + N);
        }
    }

    static constexpr std::size_t kScratch = 2;

    std::vector<Layer> layers_;
    std::size_t mix_rank_, decay_rank_;
    Vectors xx_, mixed_[kMixes], r_, k_, v_, g_, d_;           // (M, C)
    Vectors maa_hidden_, maa_slices_[kMixes], decay_hidden_;   // (M, 5 Rm), (M, Rm), (M, Rd)
    Vectors ffn_hidden_;                                       // (M, F)
    Vectors& out_ = xx_;                                       // in memory that is free by then
    std::size_t scratch_stride_;
    Buffer<float> scratch_;  // (threads, kScratch, N)
};

}  // namespace

std::unique_ptr<Engine> make_rwkv6(const ModelSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations) {
    return std::make_unique<Rwkv6>(sizes, std::move(weights), threads, quantize_activations);
}

}  // namespace rwkvquant
