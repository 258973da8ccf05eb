// How far ahead products with one vector ask for memory (Ahead in matrix.h). Results never depend on it.
//
// What is best differs from CPU to CPU, and from one kind of matrix to another; a kind is a codec and the width of its codes. On an AMD EPYC
// (family 26) 8 KiB into the first cache made reading 20 % faster, on an Intel Xeon 1 KiB is 20 % faster than that. On an AMD EPYC (family
// 25) 3-bit grids are read 30 % faster through the second cache, and 4-bit grids 20 % slower. So a table by CPU has a first choice. The
// first tokens of a model that is larger than caches are read in one way after another, and each kind keeps the one with which its
// products took the least time. So measuring costs no time of its own: the tokens are needed anyway, their memory is where it will be, and
// all threads work. What is chosen is kept for the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "matrix.h"

namespace rwkvquant {

// What the table has for this CPU.
Ahead usual_ahead(const std::string& kind);

class Prefetch {
  public:
    // The names of the kinds, which begin with that of the codec, and the bytes that a token reads of each of them. Nothing is measured for
    // a small model. `isa` is the name of the body.
    Prefetch(std::string isa, std::vector<std::string> kinds, std::vector<std::size_t> bytes);

    // For the next token.
    Ahead ahead(std::size_t kind) const { return ahead_[kind]; }
    bool measuring() const { return measuring_; }

    // (kinds,) the time of the products of each kind in a token, of all threads together, in any unit.
    void learn(std::span<const std::uint64_t> times);

    // From now on this for every kind; without a value, what the table has. Nothing is measured.
    void fix(std::optional<Ahead> ahead);
    // "table", "measuring", "measured" or "fixed"
    const char* source() const { return source_; }

  private:
    void choose();

    const std::string isa_;
    const std::vector<std::string> kinds_;
    std::vector<std::size_t> bytes_;
    std::vector<Ahead> ahead_;                        // (kinds,)
    std::vector<std::vector<std::uint64_t>> best_;    // (ways, kinds) the least time; way 0 is the table's
    bool measuring_ = false;
    const char* source_ = "table";
    std::size_t tokens_ = 0;
};

}  // namespace rwkvquant
