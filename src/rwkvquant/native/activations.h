// Sums over quantised activations, computed once for each vector and used by every row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

// (64 * groups) xq -> (groups) sums. They turn sum((code - zero) * xq) into sum(code * xq) - zero * sum(xq).
void group_sums(const std::int8_t* xq, std::size_t groups, std::int32_t* xsum);

}  // namespace rwkvquant
