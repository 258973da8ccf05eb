#include "cache.h"

#include <algorithm>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__unix__)
#include <fstream>
#include <unistd.h>
#endif

namespace rwkvquant {
namespace {

#if defined(__APPLE__)

std::size_t ask_system() {
    for (const char* name : {"hw.perflevel0.l2cachesize", "hw.l2cachesize"}) {
        std::size_t bytes = 0, size = sizeof bytes;
        if (sysctlbyname(name, &bytes, &size, nullptr, 0) == 0 && bytes > 0) return bytes;
    }
    return 0;
}

#elif defined(__unix__)

std::size_t ask_system() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    if (const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE); bytes > 0) return static_cast<std::size_t>(bytes);
#endif
    std::size_t kibibytes = 0;  // on ARM, sysconf does not know; the file has "1024K"
    std::ifstream("/sys/devices/system/cpu/cpu0/cache/index2/size") >> kibibytes;
    return kibibytes << 10;
}

#else

std::size_t ask_system() { return 0; }

#endif

}  // namespace

std::size_t second_cache_bytes() {
    static const std::size_t bytes = [] {
        constexpr std::size_t kUsual = std::size_t{512} << 10, kLeast = std::size_t{128} << 10, kMost = std::size_t{16} << 20;
        const std::size_t said = ask_system();
        return said == 0 ? kUsual : std::clamp(said, kLeast, kMost);
    }();
    return bytes;
}

}  // namespace rwkvquant
