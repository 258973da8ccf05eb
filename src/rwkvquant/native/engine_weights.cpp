// What an engine holds: the weights of the file, and the activation vectors of a step.
#include <algorithm>
#include <stdexcept>

#include "bodies.h"
#include "cache.h"
#include "engine.h"

namespace rwkvquant {
namespace {

// Vectors for which a tile is decoded once. They are read again for every two row-blocks, so their int8 values should stay in half of the
// second cache.
constexpr std::size_t kFewestTogether = 64, kMostTogether = 256;

constexpr std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

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

Vectors::Vectors(std::size_t cols, bool rounded)
    : cols_(cols), padded_(ceil_divide(cols, kColumnGroup) * kColumnGroup), groups_(padded_ / kColumnGroup), rounded_(rounded),
      together_(std::clamp(second_cache_bytes() / 2 / std::max(padded_, kColumnGroup), kFewestTogether, kMostTogether)) {}

std::size_t Vectors::bytes() const {
    return padded_ * sizeof(float) + (rounded_ ? padded_ + groups_ * (sizeof(float) + 2 * sizeof(std::int32_t)) : 0);
}

void Vectors::reserve(std::size_t count) {
    if (count <= capacity_) return;
    capacity_ = count;
    x_ = {}, q_ = {}, scale_ = {}, minus_sum_ = {};  // so that the old memory is free before the new is taken
    x_ = Buffer<float>(count * padded_);
    if (!rounded_) return;
    q_ = Buffer<std::int8_t>(count * padded_);
    scale_ = Buffer<float>(count * groups_);
    minus_sum_ = Buffer<std::int32_t>(2 * count * groups_);
}

void Vectors::quantize(std::size_t b, Range columns) const {
    if (columns.begin >= columns.end || (transformed_ && !as_is_)) return;
    const std::size_t at = b * padded_ + columns.begin, group = b * groups_ + columns.begin / kColumnGroup;
    operations().quantize_activations(x_.data() + at, 1, columns.end - columns.begin, q_.data() + at, scale_.data() + group,
                                      minus_sum_.data() + 2 * group);
}

Activations Vectors::view_from(std::size_t first, std::size_t count, bool quantized) const {
    Activations view;
    view.x = x_.data() + first * padded_;
    view.cols = cols_;
    view.count = count;
    view.together = together_;
    if (quantized) {
        view.q = q_.data() + first * padded_;
        view.scale = scale_.data() + first * groups_;
        view.minus_sum = minus_sum_.data() + 2 * first * groups_;
    }
    return view;
}

}  // namespace rwkvquant
