// Some rows of a (columns, rows) array at a time, so that all columns of them stay in the cache.
#pragma once

#include <cstddef>

namespace rwkvquant::RWKVQUANT_BODY {
namespace {

constexpr std::size_t kTile = 64;  // rows

// Copies rows first..first + count into kTile rows; the rest of these is `fill`.
template <class From, class To>
void load(const From* from, std::size_t columns, std::size_t rows, std::size_t first, std::size_t count, To* to, To fill) {
    for (std::size_t i = 0; i < columns; ++i) {
        for (std::size_t r = 0; r < kTile; ++r) to[i * kTile + r] = r < count ? static_cast<To>(from[i * rows + first + r]) : fill;
    }
}

template <class From, class To>
void store(const From* from, std::size_t columns, std::size_t rows, std::size_t first, std::size_t count, To* to) {
    for (std::size_t i = 0; i < columns; ++i) {
        for (std::size_t r = 0; r < count; ++r) to[i * rows + first + r] = static_cast<To>(from[i * kTile + r]);
    }
}

// Calls round(first, count) for each kTile rows of begin..end; the last may be fewer.
template <class Round>
void for_tiles(std::size_t begin, std::size_t end, Round round) {
    for (std::size_t first = begin; first < end; first += kTile) round(first, end - first < kTile ? end - first : kTile);
}

}  // namespace
}  // namespace rwkvquant::RWKVQUANT_BODY
