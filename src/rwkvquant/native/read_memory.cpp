// Reads memory once, as fast as one core can: the measure that matrix-vector products are held against.
//
// The xor of all 64-bit words is kept, so that nothing can be left out, and the loop does next to nothing but load.
// `bytes` must be a multiple of 256; `ahead` bytes are prefetched, 0 leaves it to the hardware. One stream was fastest of 1, 2, 4, 8.
#include "lanes.h"
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {

static_assert(sizeof(Line) == 64);

std::uint64_t read_memory(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead) {
    Line a = {}, b = {}, c = {}, d = {};
    for (const std::uint8_t* end = memory + bytes; memory != end; memory += 256) {
        if (ahead != 0) prefetch<256>(memory, ahead);
        a = mix(a, load<Line>(memory));
        b = mix(b, load<Line>(memory + 64));
        c = mix(c, load<Line>(memory + 128));
        d = mix(d, load<Line>(memory + 192));
    }
    const Line all = mix(mix(a, b), mix(c, d));
    std::uint64_t result = 0;
    for (std::size_t word = 0; word < 8; ++word) result ^= load<std::uint64_t>(reinterpret_cast<const char*>(&all) + 8 * word);
    return result;
}

}  // namespace rwkvquant::RWKVQUANT_BODY
