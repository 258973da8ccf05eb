// The plain draw of a token; the definition is kernels/sampling.py. Weights are float32; sums are float64, from the first token on.
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <vector>

#include "bodies.h"

namespace rwkvquant {
namespace {

constexpr double kLeastTemperature = 1e-30;  // still a float32, and in effect 0
constexpr std::size_t kFirstSorted = 256;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// The scores, with -infinity for those below the k-th largest.
std::vector<float> top_k_of(const float* scores, std::size_t vocab, std::size_t k) {
    std::vector<float> sorted(scores, scores + vocab);
    const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
    const float least = *last;
    std::vector<float> kept(scores, scores + vocab);
    for (float& score : kept) score = score >= least ? score : kNever;
    return kept;
}

// The weight of the last token that top-p keeps.
float cutoff_of(const std::vector<float>& weights, double top_p) {
    double total = 0;
    for (const float weight : weights) total += weight;
    // Tokens with less weight than this have together less than 1 - top_p, so top_p is reached before them: sorting the others is enough.
    const double least = (1 - top_p) * total / static_cast<double>(weights.size());
    std::vector<float> likely;
    for (const float weight : weights) {
        if (weight >= least) likely.push_back(weight);
    }
    // Usually a few hundred tokens reach top_p; so the first 256 are sorted, then eight times as many, and so on.
    double reached = 0;
    for (std::size_t sorted = 0; sorted < likely.size();) {
        const auto begin = likely.begin() + static_cast<std::ptrdiff_t>(sorted);
        const auto end = static_cast<std::size_t>(likely.end() - begin) > kFirstSorted + 7 * sorted
                             ? begin + static_cast<std::ptrdiff_t>(kFirstSorted + 7 * sorted) : likely.end();
        if (end != likely.end()) std::nth_element(begin, end, likely.end(), std::greater<>());
        std::sort(begin, end, std::greater<>());
        for (auto weight = begin; weight != end; ++weight) {
            reached += *weight;
            if (reached >= top_p * total) return *weight;
        }
        sorted = static_cast<std::size_t>(end - likely.begin());
    }
    return likely.empty() ? 0.0f : likely.back();
}

}  // namespace

std::size_t draw_plain(const float* scores, std::size_t vocab, const Filters& filters, double uniform) {
    const auto [temperature, top_p, top_k, min_p] = filters;
    std::vector<float> kept;
    if (top_k > 0 && top_k < vocab) {
        kept = top_k_of(scores, vocab, top_k);
        scores = kept.data();
    }
    const float top = *std::max_element(scores, scores + vocab);
    std::vector<float> weights(vocab);
    operations().exponentials(scores, top, 1.0f, vocab, weights.data());
    const float cutoff = top_p < 1 ? cutoff_of(weights, top_p) : 0.0f;
    if (temperature != 1) {
        std::vector<float> tempered(vocab);
        operations().exponentials(scores, top, static_cast<float>(std::max(temperature, kLeastTemperature)), vocab, tempered.data());
        for (std::size_t token = 0; token < vocab; ++token) weights[token] = weights[token] >= cutoff ? tempered[token] : 0.0f;
    } else {
        for (float& weight : weights) weight = weight >= cutoff ? weight : 0.0f;
    }
    if (min_p > 0) {
        const double least = std::log(min_p);
        for (std::size_t token = 0; token < vocab; ++token) {
            if (static_cast<double>(scores[token]) - top < least) weights[token] = 0.0f;
        }
    }
    double total = 0;
    for (const float weight : weights) total += weight;
    double reached = 0;
    std::size_t last = 0;
    for (std::size_t token = 0; token < vocab; ++token) {
        if (weights[token] == 0) continue;
        reached += weights[token];
        last = token;
        if (reached > uniform * total) return token;
    }
    return last;
}

}  // namespace rwkvquant
