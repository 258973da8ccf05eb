// A matrix for Python: what the codec's `describe` made of its numbers and arrays, and the arrays themselves.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "bodies.h"

namespace rwkvquant {

class HeldMatrix {
  public:
    // Throws ValueError unless everything fits the rules in the codec's `describe`.
    HeldMatrix(const std::string& codec, std::size_t rows, std::size_t cols, const nb::dict& numbers, const nb::dict& arrays,
               const std::optional<Array>& signs, const std::optional<Array>& divisors);

    const Matrix& matrix() const { return matrix_; }
    const Codec& codec() const { return *operations().codecs[matrix_.codec]; }
    const std::vector<Array>& arrays() const { return arrays_; }

  private:
    Matrix matrix_;
    std::vector<Array> arrays_;  // what matrix_ points into
};

}  // namespace rwkvquant
