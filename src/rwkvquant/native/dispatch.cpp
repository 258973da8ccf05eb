#include "dispatch.h"

#include <atomic>

#if defined(RWKVQUANT_X86)
#include <cpuid.h>
#elif defined(RWKVQUANT_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(RWKVQUANT_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace rwkvquant {
namespace {

#if defined(RWKVQUANT_X86)

constexpr bool has(unsigned word, int bit) { return (word >> bit & 1u) != 0; }

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

#elif defined(RWKVQUANT_ARM)

struct Cpu {
    bool dotprod = false, i8mm = false;
};

#if defined(__linux__)

// HWCAP_ASIMDDP and HWCAP2_I8MM of the kernel's interface, which never change; old headers lack the second name.
Cpu read_cpu() {
    const bool dotprod = (getauxval(AT_HWCAP) >> 20 & 1u) != 0;
    return {dotprod, dotprod && (getauxval(AT_HWCAP2) >> 13 & 1u) != 0};
}

#elif defined(__APPLE__)

bool has(const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

Cpu read_cpu() {
    const bool dotprod = has("hw.optional.arm.FEAT_DotProd");
    return {dotprod, dotprod && has("hw.optional.arm.FEAT_I8MM")};
}

#else

Cpu read_cpu() { return {}; }

#endif
#endif

std::vector<Operations> find_available() {
    std::vector<Operations> found = {{"plain", plain::product, plain::quantize_activations, plain::read_memory, plain::dot_bytes}};
#if defined(RWKVQUANT_X86)
    const Cpu cpu = read_cpu();
    if (cpu.avx2) found.push_back({"avx2", avx2::product, avx2::quantize_activations, avx2::read_memory, avx2::dot_bytes});
    if (cpu.avx512) found.push_back({"avx512", avx512::product, avx512::quantize_activations, avx512::read_memory, avx512::dot_bytes});
#elif defined(RWKVQUANT_ARM)
    // Every CPU of this architecture has NEON, so what is not a product is as fast in the plain body.
    const Cpu cpu = read_cpu();
    if (cpu.dotprod) found.push_back({"neon", neon::product, plain::quantize_activations, plain::read_memory, neon::dot_bytes});
    if (cpu.i8mm) found.push_back({"i8mm", i8mm::product, plain::quantize_activations, plain::read_memory, i8mm::dot_bytes});
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
