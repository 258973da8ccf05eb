// Draws the token that draw_plain draws, to the bit, but looks closely only at the few tokens that may be drawn.
//
// Two comparisons of draw_plain are with sums of all weights, in their order. Here several partial sums grow side by side, which gives
// another rounding. So a comparison that this rounding could decide is left to draw_plain; that is about one draw in a million.
#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "bodies.h"

namespace rwkvquant {
namespace {

constexpr double kLeastTemperature = 1e-30;  // still a float32, and in effect 0
constexpr std::size_t kSide = 16;        // sums and maxima that grow side by side
constexpr std::size_t kBlock = 32;       // tokens that are passed over together
constexpr std::size_t kSummed = 1024;    // weights of a partial sum; so few are summed in order
constexpr float kStep = 1.0f / 16;       // from one try for the weights that top-p keeps to the next

// Kept from call to call, since fresh memory costs as much time as the work.
struct Room {
    std::vector<float> scores, weights, candidates;
    std::vector<std::uint32_t> tokens;
    std::vector<double> sums;
};

float largest(const float* x, std::size_t count) {
    float side[kSide];
    std::fill(side, side + kSide, -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + kSide <= count; i += kSide) {
        for (std::size_t j = 0; j < kSide; ++j) side[j] = x[i + j] > side[j] ? x[i + j] : side[j];
    }
    for (; i < count; ++i) side[0] = x[i] > side[0] ? x[i] : side[0];
    return *std::max_element(side, side + kSide);
}

double sum(const float* x, std::size_t count) {
    double side[kSide] = {};
    std::size_t i = 0;
    for (; i + kSide <= count; i += kSide) {
        for (std::size_t j = 0; j < kSide; ++j) side[j] += x[i + j];
    }
    for (; i < count; ++i) side[0] += x[i];
    double total = 0;
    for (const double part : side) total += part;
    return total;
}

// How far sums of `count` weights in two orders may differ, twice.
double margin(std::size_t count, double total) { return 4 * std::numeric_limits<double>::epsilon() * static_cast<double>(count) * total; }

// Calls take(i) for every x[i] >= least, in order.
template <typename Take>
void each_above(const float* x, std::size_t count, float least, Take take) {
    std::size_t i = 0;
    for (; i + kBlock <= count; i += kBlock) {
        unsigned any = 0;
        for (std::size_t j = 0; j < kBlock; ++j) any |= x[i + j] >= least ? 1u : 0u;
        if (any == 0) continue;
        for (std::size_t j = i; j < i + kBlock; ++j) {
            if (x[j] >= least) take(j);
        }
    }
    for (; i < count; ++i) {
        if (x[i] >= least) take(i);
    }
}

void collect(const float* x, std::size_t count, float least, std::vector<float>& above) {
    above.clear();
    each_above(x, count, least, [&](std::size_t i) { above.push_back(x[i]); });
}

// The k-th largest score; k <= vocab.
float kth_largest(const float* scores, std::size_t vocab, float top, std::size_t k, std::vector<float>& candidates) {
    for (float below = 2; below < 1000; below *= 4) {
        collect(scores, vocab, top - below, candidates);
        if (candidates.size() >= k) break;
    }
    if (candidates.size() < k) candidates.assign(scores, scores + vocab);
    const auto last = candidates.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(candidates.begin(), last, candidates.end(), std::greater<>());
    return *last;
}

// The weight of the last token that top-p keeps; nothing if the rounding of a sum decides. The largest weight is 1.
std::optional<float> cutoff_of(const float* weights, std::size_t count, double top_p, std::vector<float>& likely) {
    const double total = sum(weights, count), target = top_p * total, unsure = margin(count, total);
    float least = kStep;
    for (;; least *= kStep) {
        collect(weights, count, least, likely);
        if (sum(likely.data(), likely.size()) > target + unsure) break;
        if (least < std::numeric_limits<float>::min()) return std::nullopt;
    }
    // Halve the range in which the cutoff is: `above` is the sum of all that are larger.
    double above = 0;
    auto begin = likely.begin(), end = likely.end();
    while (end - begin > 1) {
        const auto middle = begin + (end - begin) / 2;
        std::nth_element(begin, middle, end, std::greater<>());
        const double upper = sum(&*begin, static_cast<std::size_t>(middle - begin));
        if (above + upper > target + unsure) {
            end = middle;
        } else if (above + upper < target - unsure) {
            above += upper, begin = middle;
        } else {
            return std::nullopt;
        }
    }
    return *begin;
}

// The first place whose cumulative weight is above `uniform` of all; nothing if the rounding of a sum decides.
std::optional<std::size_t> place_of(const float* weights, std::size_t count, double uniform, std::vector<double>& sums) {
    if (count <= kSummed) {  // in order, as draw_plain does
        double total = 0, reached = 0;
        for (std::size_t i = 0; i < count; ++i) total += weights[i];
        std::size_t last = 0;
        for (std::size_t i = 0; i < count; ++i) {
            if (weights[i] == 0) continue;
            reached += weights[i];
            last = i;
            if (reached > uniform * total) break;
        }
        return last;
    }
    sums.clear();
    double total = 0;
    for (std::size_t i = 0; i < count; i += kSummed) {
        sums.push_back(sum(weights + i, std::min(kSummed, count - i)));
        total += sums.back();
    }
    const double target = uniform * total, unsure = margin(count, total);
    double before = 0;
    for (std::size_t block = 0; block < sums.size(); before += sums[block++]) {
        if (before + sums[block] < target - unsure) continue;
        double reached = before;
        for (std::size_t i = block * kSummed; i < std::min(count, (block + 1) * kSummed); ++i) {
            reached += weights[i];
            if (reached > target + unsure) return i;
            if (reached >= target - unsure) return std::nullopt;
        }
    }
    return std::nullopt;
}

std::optional<std::size_t> draw_quickly(const float* scores, std::size_t vocab, const Filters& filters, double uniform) {
    const auto [temperature, top_p, top_k, min_p] = filters;
    thread_local Room room;
    const float top = largest(scores, vocab);
    if (!std::isfinite(top)) return std::nullopt;

    std::size_t count = vocab;
    bool all = true;  // whether token i is in place i
    if (top_k > 0 && top_k < vocab) {
        const float least = kth_largest(scores, vocab, top, top_k, room.candidates);
        room.scores.clear(), room.tokens.clear();
        each_above(scores, vocab, least, [&](std::size_t i) {
            room.scores.push_back(scores[i]);
            room.tokens.push_back(static_cast<std::uint32_t>(i));
        });
        scores = room.scores.data(), count = room.scores.size(), all = false;
    }
    room.weights.resize(count);
    float* weights = room.weights.data();
    operations().exponentials(scores, top, 1.0f, count, weights);

    if (top_p < 1 || min_p > 0) {
        std::optional<float> cutoff = 0.0f;
        if (top_p < 1) cutoff = cutoff_of(weights, count, top_p, room.candidates);
        if (!cutoff) return std::nullopt;
        const double least = min_p > 0 ? std::log(min_p) : -std::numeric_limits<double>::infinity();
        const float about = std::max(*cutoff, static_cast<float>(0.999 * min_p));  // the exponentials are rounded much less than that
        std::size_t kept = 0;
        if (all) room.scores.resize(count), room.tokens.resize(count);
        each_above(weights, count, about, [&](std::size_t i) {
            if (static_cast<double>(scores[i]) - top < least) return;
            room.tokens[kept] = all ? static_cast<std::uint32_t>(i) : room.tokens[i];
            room.scores[kept] = scores[i];
            weights[kept++] = weights[i];
        });
        scores = room.scores.data(), count = kept, all = false;
    }
    if (temperature != 1) {
        operations().exponentials(scores, top, static_cast<float>(std::max(temperature, kLeastTemperature)), count, weights);
    }
    const std::optional<std::size_t> place = place_of(weights, count, uniform, room.sums);
    if (!place || all) return place;
    return room.tokens[*place];
}

}  // namespace

std::size_t draw(const float* scores, std::size_t vocab, const Filters& filters, double uniform) {
    const std::optional<std::size_t> token = draw_quickly(scores, vocab, filters, uniform);
    return token ? *token : draw_plain(scores, vocab, filters, uniform);
}

}  // namespace rwkvquant
