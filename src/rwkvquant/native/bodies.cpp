#include "bodies.h"

#include <atomic>

#if defined(RWKVQUANT_X86)
#include <cpuid.h>
#elif defined(RWKVQUANT_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(RWKVQUANT_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// All bodies of the architecture, slowest first, each with what a CPU must have for it. A new body needs an entry here, a header of lanes,
// and a line in CMakeLists.txt.
#if defined(RWKVQUANT_X86)
#define RWKVQUANT_BODIES(body) body(plain, true) body(avx2, cpu.avx2) body(avxvnni, cpu.avxvnni) body(avx512, cpu.avx512)
#elif defined(RWKVQUANT_ARM)
#define RWKVQUANT_BODIES(body) body(plain, true) body(neon, cpu.dotprod) body(i8mm, cpu.i8mm)
#else
#define RWKVQUANT_BODIES(body) body(plain, true)
#endif

namespace rwkvquant {

#define RWKVQUANT_DECLARED(name, runs) namespace name { extern const Operations table; }
RWKVQUANT_BODIES(RWKVQUANT_DECLARED)

namespace {

#if defined(RWKVQUANT_X86)

constexpr bool has(unsigned word, int bit) { return (word >> bit & 1u) != 0; }

// XCR0: the registers that the operating system saves at a task switch. Bits 1, 2: xmm and ymm; 5, 6, 7: zmm and masks.
std::uint64_t saved_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t{high} << 32 | low;
}

struct Cpu {
    bool avx2 = false, avxvnni = false, avx512 = false;
};

Cpu read_cpu() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    Cpu cpu;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) return cpu;
    const bool fma = has(c, 12), osxsave = has(c, 27), avx = has(c, 28), f16c = has(c, 29);
    if (!osxsave || !avx || !f16c || !fma || (saved_state() & 0x06) != 0x06) return cpu;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return cpu;
    [[maybe_unused]] const unsigned most = a;  // the last part of leaf 7
    cpu.avx2 = has(b, 5);
    const bool f = has(b, 16), dq = has(b, 17), bw = has(b, 30), vl = has(b, 31), vnni = has(c, 11);
    cpu.avx512 = cpu.avx2 && f && dq && bw && vl && vnni && (saved_state() & 0xE6) == 0xE6;
#if defined(RWKVQUANT_VNNI_IN_EVEX)
    cpu.avxvnni = cpu.avx512;
#else
    cpu.avxvnni = cpu.avx2 && most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && has(a, 4);
#endif
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

#else

struct Cpu {};
Cpu read_cpu() { return {}; }

#endif

std::vector<const Operations*> find_available() {
    [[maybe_unused]] const Cpu cpu = read_cpu();
    std::vector<const Operations*> bodies;
#define RWKVQUANT_ADDED(name, runs) \
    if (runs) bodies.push_back(&name::table);
    RWKVQUANT_BODIES(RWKVQUANT_ADDED)
    return bodies;
}

std::atomic<const Operations*> chosen = available().back();

}  // namespace

const std::vector<const Operations*>& available() {
    static const std::vector<const Operations*> bodies = find_available();
    return bodies;
}

const Operations& operations() {
    return *chosen.load(std::memory_order_acquire);
}

bool set_operations(std::string_view isa) {
    for (const Operations* candidate : available()) {
        if (candidate->isa == isa) {
            chosen.store(candidate, std::memory_order_release);
            return true;
        }
    }
    return false;
}

}  // namespace rwkvquant
