#include "engine_vrwkv.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>

#include "bodies.h"

namespace rwkvquant {
namespace {

constexpr std::size_t kRowUnit = 32;      // two row-blocks: products with many vectors take two at a time
constexpr std::size_t kPatchUnit = 8;     // patches that a thread takes at once
constexpr std::size_t kChannelUnit = 32;  // channels of Bi-WKV: two cache lines of a patch
constexpr std::size_t kColumnPatches = 16;  // that share the loads of a matrix stored by columns
constexpr std::size_t kScratch = 3 * 16;  // floats of Bi-WKV for each patch
constexpr float kLayerNormEps = 1e-5f;

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// Calls body(i) for 0..total on all threads, in runs of `unit`. Half of the runs are given to threads that are free.
template <typename Body>
void each(const Worker& worker, std::size_t total, std::size_t unit, const Body& body) {
    const std::size_t pieces = ceil_divide(total, unit);
    worker.hand_out(pieces, pieces / 2, [&](Range part) {
        for (std::size_t i = part.begin * unit; i < std::min(total, part.end * unit); ++i) body(i);
    });
    worker.barrier();
}

const ColumnSums* columns_of(const Matrix& W) { return operations().codecs[W.codec]->by_columns; }

}  // namespace

ImageEngine::ImageEngine(const ImageSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations)
    : sizes(sizes),
      weights_(std::move(weights)),
      quantized_(quantize_activations),
      zeros_(sizes.width),
      decay_(sizes.width),
      first_(sizes.width),
      xk_(sizes.width),
      xv_(sizes.width),
      xr_(sizes.width),
      hidden_(sizes.hidden),
      pool_(threads) {
    const std::size_t C = sizes.width, F = sizes.hidden;
    shares_.reserve(5 * sizes.layers);
    for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
        const std::string block = "backbone.layers." + std::to_string(layer) + ".";
        Layer own = {};
        own.ln1 = norm(block + "ln1", C, false), own.ln2 = norm(block + "ln2", C, false);
        own.att_key_norm = norm(block + "att.key_norm", C, true), own.ffn_key_norm = norm(block + "ffn.key_norm", F, true);
        own.gamma1 = optional_vector(block + "gamma1", C), own.gamma2 = optional_vector(block + "gamma2", C);
        own.decay = weights_.vector(block + "att.spatial_decay", C), own.first = weights_.vector(block + "att.spatial_first", C);
        own.att_k = neighbour_share(block + "att.spatial_mix_k"), own.att_v = neighbour_share(block + "att.spatial_mix_v");
        own.att_r = neighbour_share(block + "att.spatial_mix_r");
        own.ffn_k = neighbour_share(block + "ffn.spatial_mix_k"), own.ffn_r = neighbour_share(block + "ffn.spatial_mix_r");
        own.key = weights_.matrix(block + "att.key.weight", C, C), own.value = weights_.matrix(block + "att.value.weight", C, C);
        own.receptance = weights_.matrix(block + "att.receptance.weight", C, C);
        own.output = weights_.matrix(block + "att.output.weight", C, C);
        own.ffn_key = weights_.matrix(block + "ffn.key.weight", F, C);
        own.ffn_receptance = weights_.matrix(block + "ffn.receptance.weight", C, C);
        own.ffn_value = weights_.matrix(block + "ffn.value.weight", C, F, !own.ffn_key_norm);
        if (const ColumnSums* by_columns = columns_of(*own.ffn_value)) {
            prepared_bytes_ = std::max(prepared_bytes_, by_columns->prepared_bytes(*own.ffn_value));
            room_bytes_ = std::max(room_bytes_, ceil_divide(by_columns->room_bytes(*own.ffn_value), 64) * 64);
        }
        layers_.push_back(own);
    }
    prepared_ = Buffer<std::uint8_t>(pool_.asked() * kColumnPatches * prepared_bytes_);
    room_ = Buffer<std::uint8_t>(pool_.asked() * room_bytes_);
    ln0_ = norm("backbone.layers.0.ln0", C, false);
    ln1_ = norm("backbone.ln1", C, true);
}

ImageEngine::Norm ImageEngine::norm(const std::string& name, std::size_t size, bool optional) const {
    if (optional && !weights_.vectors.contains(name + ".weight")) return {};
    return {weights_.vector(name + ".weight", size), weights_.vector(name + ".bias", size)};
}

const float* ImageEngine::optional_vector(const std::string& name, std::size_t size) const {
    return weights_.vectors.contains(name) ? weights_.vector(name, size) : nullptr;
}

const float* ImageEngine::neighbour_share(const std::string& name) {
    const float* mu = weights_.vector(name, sizes.width);
    Buffer<float>& share = shares_.emplace_back(sizes.width);
    for (std::size_t c = 0; c < sizes.width; ++c) share.data()[c] = 1.0f - mu[c];
    return share.data();
}

const Matrix& ImageEngine::outside(const std::string& name) const {
    const auto entry = weights_.matrices.find(name);
    const bool inside = name.starts_with("backbone.layers.");
    if (inside || entry == weights_.matrices.end()) {
        throw std::invalid_argument("the model has no such matrix outside its blocks (" + name + ")");
    }
    return *weights_.matrix(name, entry->second.rows, entry->second.cols);  // refuses one that is stored by columns
}

void ImageEngine::reserve(std::size_t count) {
    if (count <= reserved_) return;
    for (Vectors* vectors : {&xk_, &xv_, &xr_, &hidden_}) vectors->reserve(count);
    for (Buffer<float>* buffer : {&y_, &k_, &v_, &r_, &branch_}) *buffer = Buffer<float>(count * sizes.width);
    reserved_ = count;
}

void ImageEngine::blocks(float* x, const Patches& patches) {
    const std::lock_guard<std::mutex> lock(busy_);
    const std::size_t count = patches.count();
    reserve(count);
    if (patches.of_image() > scratch_patches_) {
        scratch_ = Buffer<float>(pool_.asked() * patches.of_image() * kScratch);
        scratch_patches_ = patches.of_image();
    }
    pool_.run([&](const Worker& worker) {
        each(worker, count, kPatchUnit, [&](std::size_t patch) {
            float* const row = x + patch * sizes.width;
            apply_norm(row, ln0_, sizes.width, row);
            normalize(x, patch, layers_.front().ln1);
        });
        for (std::size_t layer = 0; layer < sizes.layers; ++layer) {
            const Layer& own = layers_[layer];
            spatial_mix(worker, own, x, patches);
            each(worker, count, kPatchUnit, [&](std::size_t patch) {
                add_branch(x, patch, own.ln1, own.gamma1);
                normalize(x, patch, own.ln2);
            });
            channel_mix(worker, own, x, patches);
            each(worker, count, kPatchUnit, [&](std::size_t patch) {
                operations().multiply(branch_.data() + patch * sizes.width, r_.data() + patch * sizes.width, 0, sizes.width);
                add_branch(x, patch, own.ln2, own.gamma2);
                if (layer + 1 < sizes.layers) normalize(x, patch, layers_[layer + 1].ln1);
            });
        }
        if (!ln1_) return;
        each(worker, count, kPatchUnit, [&](std::size_t patch) {
            apply_norm(x + patch * sizes.width, ln1_, sizes.width, x + patch * sizes.width);
        });
    });
}

// branch_ = output(sigmoid(receptance xr) * key_norm(Bi-WKV(key xk, value xv)))
void ImageEngine::spatial_mix(const Worker& worker, const Layer& layer, float* x, const Patches& patches) {
    const std::size_t C = sizes.width, T = patches.of_image(), count = patches.count();
    const float* const from = sizes.post_norm ? x : y_.data();
    each(worker, count, kPatchUnit, [&](std::size_t patch) {
        mix(from, patch, patches, layer.att_k, xk_);
        mix(from, patch, patches, layer.att_v, xv_);
        mix(from, patch, patches, layer.att_r, xr_);
    });
    if (worker.index == 0) {
        for (std::size_t c = 0; c < C; ++c) {
            decay_.data()[c] = layer.decay[c] / static_cast<float>(T);
            first_.data()[c] = layer.first[c] / static_cast<float>(T);
        }
    }
    multiply_all(worker, {{layer.key, &xk_, k_.data(), C},
                          {layer.value, &xv_, v_.data(), C},
                          {layer.receptance, &xr_, r_.data(), C, Function::kSigmoid}}, count);
    const std::size_t units = ceil_divide(C, kChannelUnit);
    each(worker, patches.images * units, 1, [&](std::size_t piece) {
        const std::size_t first = piece / units * T * C, begin = piece % units * kChannelUnit;
        operations().bi_wkv(decay_.data(), first_.data(), k_.data() + first, v_.data() + first, T, C, begin,
                            std::min(C, begin + kChannelUnit), scratch_.data() + worker.index * T * kScratch, y_.data() + first);
    });
    each(worker, count, kPatchUnit, [&](std::size_t patch) {
        const float* const y = y_.data() + patch * C;
        if (layer.att_key_norm) apply_norm(y, layer.att_key_norm, C, xk_.row(patch));
        else std::copy(y, y + C, xk_.row(patch));
        operations().multiply(xk_.row(patch), r_.data() + patch * C, 0, C);
        quantize(xk_, patch);
    });
    multiply_all(worker, {{layer.output, &xk_, branch_.data(), C}}, count);
}

// branch_ = value(key_norm(relu(key xk)^2)), and r_ = sigmoid(receptance xr)
void ImageEngine::channel_mix(const Worker& worker, const Layer& layer, float* x, const Patches& patches) {
    const std::size_t C = sizes.width, count = patches.count();
    const float* const from = sizes.post_norm ? x : y_.data();
    each(worker, count, kPatchUnit, [&](std::size_t patch) {
        mix(from, patch, patches, layer.ffn_k, xk_);
        mix(from, patch, patches, layer.ffn_r, xr_);
    });
    multiply_all(worker, {{layer.ffn_key, &xk_, hidden_.row(0), hidden_.stride(), Function::kSquaredRelu},
                          {layer.ffn_receptance, &xr_, r_.data(), C, Function::kSigmoid}}, count);
    each(worker, count, kPatchUnit, [&](std::size_t patch) {
        if (layer.ffn_key_norm) apply_norm(hidden_.row(patch), layer.ffn_key_norm, sizes.hidden, hidden_.row(patch));
        quantize(hidden_, patch);
    });
    const Product product = {layer.ffn_value, &hidden_, branch_.data(), C};
    if (columns_of(*layer.ffn_value) != nullptr) multiply_by_columns(worker, product, count);
    else multiply_all(worker, {product}, count);
}

// to = x + (neighbour - x) share, quantised. The neighbour is the patch to the left for a quarter of the channels, then right, above and
// below; there are zeros around the image.
void ImageEngine::mix(const float* from, std::size_t patch, const Patches& patches, const float* share, const Vectors& to) const {
    const std::size_t C = sizes.width, in_image = patch % patches.of_image();
    const std::size_t row = in_image / patches.columns, column = in_image % patches.columns;
    const float* const x = from + patch * C;
    const float* const neighbours[4] = {
        column > 0 ? x - C : zeros_.data(),
        column + 1 < patches.columns ? x + C : zeros_.data(),
        row > 0 ? x - patches.columns * C : zeros_.data(),
        row + 1 < patches.rows ? x + patches.columns * C : zeros_.data(),
    };
    for (std::size_t quarter = 0; quarter < 4; ++quarter) {
        operations().token_shift(x, neighbours[quarter], share, nullptr, quarter * C / 4, (quarter + 1) * C / 4, to.row(patch));
    }
    quantize(to, patch);
}

// x += gamma * branch, with `ln` after the mix if the norms follow the mixes.
void ImageEngine::add_branch(float* x, std::size_t patch, const Norm& ln, const float* gamma) const {
    float* const branch = branch_.data() + patch * sizes.width;
    if (sizes.post_norm) apply_norm(branch, ln, sizes.width, branch);
    if (gamma != nullptr) operations().multiply(branch, gamma, 0, sizes.width);
    operations().add(x + patch * sizes.width, branch, 0, sizes.width);
}

// y_ = ln x, unless the norms follow the mixes.
void ImageEngine::normalize(const float* x, std::size_t patch, const Norm& ln) const {
    if (!sizes.post_norm) apply_norm(x + patch * sizes.width, ln, sizes.width, y_.data() + patch * sizes.width);
}

void ImageEngine::apply_norm(const float* x, const Norm& ln, std::size_t size, float* y) const {
    operations().layer_norm(x, ln.weight, ln.bias, size, kLayerNormEps, 0, size, y);
}

void ImageEngine::quantize(const Vectors& y, std::size_t patch) const {
    if (quantized_) y.quantize(patch, {0, y.cols()});
}

// All products, whose matrices have the same number of columns, as one line of row units.
void ImageEngine::multiply_all(const Worker& worker, std::initializer_list<Product> products, std::size_t count) const {
    std::size_t units = 0;
    for (const Product& product : products) units += ceil_divide(product.W->rows, kRowUnit);
    worker.hand_out(units, units / 2, [&](Range part) {
        std::size_t before = 0;
        for (const Product& product : products) {
            const std::size_t own = ceil_divide(product.W->rows, kRowUnit);
            const std::size_t begin = std::clamp(part.begin, before, before + own) - before;
            const std::size_t end = std::clamp(part.end, before, before + own) - before;
            before += own;
            if (begin == end) continue;
            const Range rows = {begin * kRowUnit, std::min(product.W->rows, end * kRowUnit)};
            const Codec& codec = *operations().codecs[product.W->codec];
            Activations view = product.x->view(count, quantized_);
            view.ahead = usual_ahead(codec.name);
            codec.product(*product.W, view, product.out, product.stride, rows.begin, rows.end);
            if (!product.finish) continue;
            for (std::size_t m = 0; m < count; ++m) {
                operations().apply(*product.finish, product.out + m * product.stride, rows.begin, rows.end);
            }
        }
    });
    worker.barrier();
}

// A thread prepares some patches and multiplies all rows with them.
void ImageEngine::multiply_by_columns(const Worker& worker, const Product& product, std::size_t count) const {
    const Codec& codec = *operations().codecs[product.W->codec];
    std::uint8_t* const prepared = prepared_.data() + worker.index * kColumnPatches * prepared_bytes_;
    std::uint8_t* const room = room_.data() + worker.index * room_bytes_;
    each(worker, ceil_divide(count, kColumnPatches), 1, [&](std::size_t piece) {
        const std::size_t first = piece * kColumnPatches;
        Activations view = product.x->view_from(first, std::min(kColumnPatches, count - first), quantized_);
        codec.by_columns->prepare(*product.W, view, 0, view.count, prepared, room);
        view.prepared = prepared;
        codec.product(*product.W, view, product.out + first * product.stride, product.stride, 0, product.W->rows);
    });
}

void ImageEngine::multiply(const Matrix& W, const float* x, std::size_t count, float* out) {
    const std::lock_guard<std::mutex> lock(busy_);
    Vectors vectors(W.cols);
    vectors.reserve(count);
    pool_.run([&](const Worker& worker) {
        each(worker, count, kPatchUnit, [&](std::size_t m) {
            std::copy(x + m * W.cols, x + (m + 1) * W.cols, vectors.row(m));
            quantize(vectors, m);
        });
        multiply_all(worker, {{&W, &vectors, out, W.rows}}, count);
    });
}

}  // namespace rwkvquant
