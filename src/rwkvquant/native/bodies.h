// Which body runs: chosen at load by what the CPU and the operating system can do.
#pragma once

#include <string_view>
#include <vector>

#include "operations.h"

namespace rwkvquant {

// What runs here, slowest first; "plain" always does.
const std::vector<const Operations*>& available();

// The best one available, until set_operations has named another.
const Operations& operations();

// False, and nothing changes, when `isa` is not available.
bool set_operations(std::string_view isa);

}  // namespace rwkvquant
