#include "dispatch.h"

#include <atomic>

#if defined(RWKVQUANT_X86)
#include <cpuid.h>
#endif

namespace rwkvquant {
namespace {

constexpr bool has(unsigned word, int bit) { return (word >> bit & 1u) != 0; }

#if defined(RWKVQUANT_X86)

// What must be saved at a task switch, by the operating system's promise: XCR0. Bits 1, 2: xmm and ymm; 5, 6, 7: zmm and masks.
std::uint64_t saved_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t{high} << 32 | low;
}

struct Cpu {
    bool avx2 = false, avx512 = false;
};

Cpu read_cpu() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    Cpu cpu;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) return cpu;
    const bool fma = has(c, 12), osxsave = has(c, 27), avx = has(c, 28), f16c = has(c, 29);
    if (!osxsave || !avx || !f16c || !fma || (saved_state() & 0x06) != 0x06) return cpu;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return cpu;
    cpu.avx2 = has(b, 5);
    const bool f = has(b, 16), dq = has(b, 17), bw = has(b, 30), vl = has(b, 31), vnni = has(c, 11);
    cpu.avx512 = cpu.avx2 && f && dq && bw && vl && vnni && (saved_state() & 0xE6) == 0xE6;
    return cpu;
}

#endif

std::vector<Operations> find_available() {
    std::vector<Operations> found = {{"plain", plain::product, plain::quantize_activations, plain::read_memory}};
#if defined(RWKVQUANT_X86)
    const Cpu cpu = read_cpu();
    if (cpu.avx2) found.push_back({"avx2", avx2::product, avx2::quantize_activations, avx2::read_memory});
    if (cpu.avx512) found.push_back({"avx512", avx512::product, avx512::quantize_activations, avx512::read_memory});
#endif
    return found;
}

std::atomic<const Operations*> chosen = nullptr;

}  // namespace

const std::vector<Operations>& available() {
    static const std::vector<Operations> found = find_available();
    return found;
}

const Operations& operations() {
    const Operations* named = chosen.load(std::memory_order_acquire);
    return named != nullptr ? *named : available().back();
}

bool set_operations(std::string_view isa) {
    for (const Operations& candidate : available()) {
        if (candidate.isa == isa) {
            chosen.store(&candidate, std::memory_order_release);
            return true;
        }
    }
    return false;
}

}  // namespace rwkvquant
