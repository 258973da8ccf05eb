// Choosing the next token.
#pragma once

#include <cstddef>

namespace rwkvquant {

// What may be drawn; the order of the filters is in kernels/sampling.py. temperature > 0, top_p and min_p in 0..1.
struct Filters {
    double temperature;
    double top_p;       // 1: off
    std::size_t top_k;  // 0: off
    double min_p;       // 0: off
};

// (vocab,) finite scores, uniform in 0..1 -> a token below vocab.
std::size_t draw(const float* scores, std::size_t vocab, const Filters& filters, double uniform);

// The same token, in ten times the time: every weight is summed in order, and all that may be kept is sorted.
std::size_t draw_plain(const float* scores, std::size_t vocab, const Filters& filters, double uniform);

}  // namespace rwkvquant
