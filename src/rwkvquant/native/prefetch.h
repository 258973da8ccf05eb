// How far ahead products with one vector ask for memory (Activations in matrix.h). Results never depend on it.
//
// Which distance is best differs from CPU to CPU: on an AMD EPYC 8 KiB made reading 20 % faster, on an Intel Xeon 1 KiB is 20 % faster than
// that. So a table by CPU has a first choice for each codec. The first tokens of a model that is larger than caches are read with one
// distance after another, and each codec keeps the one with which its products took the least time. So measuring costs no time of its
// own: the tokens are needed anyway, their memory is where it will be, and all threads work. What is chosen is kept for the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rwkvquant {

// What the table has for this CPU.
std::size_t usual_ahead(const std::string& codec);

class Prefetch {
  public:
    // The codecs in the order of codecs.cpp, and the bytes that a token reads of each of them. Nothing is measured for a small model.
    // `isa` is the name of the body.
    Prefetch(std::string isa, std::vector<std::string> codecs, std::vector<std::size_t> bytes);

    // For the next token.
    std::size_t ahead(std::size_t codec) const { return ahead_[codec]; }
    bool measuring() const { return measuring_; }

    // (codecs,) the time of the products of each codec in a token, of all threads together, in any unit.
    void learn(std::span<const std::uint64_t> times);

    // From now on this distance for every codec; without a number, what the table has. Nothing is measured.
    void fix(std::optional<std::size_t> ahead);
    // "table", "measuring", "measured" or "fixed"
    const char* source() const { return source_; }

  private:
    void choose();

    const std::string isa_;
    const std::vector<std::string> codecs_;
    std::vector<std::size_t> bytes_;
    std::vector<std::size_t> ahead_;                  // (codecs,)
    std::vector<std::vector<std::uint64_t>> best_;    // (distances, codecs) the least time; distance 0 is the table's
    bool measuring_ = false;
    const char* source_ = "table";
    std::size_t tokens_ = 0;
};

}  // namespace rwkvquant
