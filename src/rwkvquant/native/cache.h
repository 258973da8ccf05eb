// How large the caches of this CPU are. Loops over many vectors take as many at a time as stay there; results never depend on it.
#pragma once

#include <cstddef>

namespace rwkvquant {

// The bytes of a core's second-level cache; half a MiB where the system does not say.
std::size_t second_cache_bytes();

}  // namespace rwkvquant
