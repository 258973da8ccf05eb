// Which body runs: chosen at load by what the CPU and the operating system can do.
#pragma once

#include <string_view>
#include <vector>

#include "operations.h"

namespace rwkvquant {

struct Operations {
    std::string_view isa;
    decltype(&plain::product) product;
    decltype(&plain::quantize_activations) quantize_activations;
    decltype(&plain::read_memory) read_memory;
    decltype(&plain::dot_bytes) dot_bytes;
};

// What runs here, slowest first; "plain" always does.
const std::vector<Operations>& available();

// The best one available, until set_operations has named another.
const Operations& operations();

// False, and nothing changes, when `isa` is not available.
bool set_operations(std::string_view isa);

}  // namespace rwkvquant
