// Choosing the next token.
#pragma once

#include <cstddef>

namespace rwkvquant {

// (vocab,) finite scores, temperature > 0, top_p and uniform in 0..1 -> a token below vocab.
std::size_t draw(const float* scores, std::size_t vocab, double temperature, double top_p, double uniform);

}  // namespace rwkvquant
