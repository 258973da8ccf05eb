// Which body runs. It is chosen at load, by what the CPU and the operating system can do.
#pragma once

#include <string_view>
#include <vector>

#include "operations.h"

namespace rwkvquant {

// The bodies that run on this CPU, slowest first; "plain" always does.
const std::vector<const Operations*>& available();

// The body in use: the best one available, until set_operations has named another.
const Operations& operations();

// False, and nothing changes, when `isa` is not available.
bool set_operations(std::string_view isa);

}  // namespace rwkvquant
