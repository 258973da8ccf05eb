// Reads memory once, as fast as one core can: the limit that matrix-vector products are compared with.
//
// It returns the xor of all 64-bit words, so that the compiler cannot leave out a load; the loop does almost nothing else. `bytes` must be
// a multiple of 256. Memory is prefetched `ahead` bytes before; 0 leaves it to the hardware. Of 1, 2, 4 and 8 streams, 1 was fastest.
#include "lanes.h"
#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {

static_assert(sizeof(Line) == 64);

std::uint64_t read_memory(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead) {
    Line a = {}, b = {}, c = {}, d = {};
    for (const std::uint8_t* end = memory + bytes; memory != end; memory += 256) {
        if (ahead != 0) prefetch<256>(memory, ahead);
        a = mix(a, line_from(memory));
        b = mix(b, line_from(memory + 64));
        c = mix(c, line_from(memory + 128));
        d = mix(d, line_from(memory + 192));
    }
    const Line all = mix(mix(a, b), mix(c, d));
    std::uint64_t result = 0;
    for (std::size_t word = 0; word < 8; ++word) result ^= load<std::uint64_t>(reinterpret_cast<const char*>(&all) + 8 * word);
    return result;
}

}  // namespace rwkvquant::RWKVQUANT_BODY
