// Every operation once for each instruction set. The bodies come from one source file each, compiled three times with other flags:
// CMakeLists.txt defines RWKVQUANT_BODY as plain, avx2 or avx512, and RWKVQUANT_AVX2 or RWKVQUANT_AVX512 with it.
//
// A file compiled with such flags must not emit inline functions that other files share: the linker keeps one copy of each, and
// if it kept the AVX-512 one, an older CPU would meet an illegal instruction in code that looks harmless. So the bodies include
// nothing of the C++ library but integer types, and what they share lives in the body's own namespace.
#pragma once

#include <cstddef>
#include <cstdint>

// Scales, row scales and activations may stand at any address. `xsum` are the sums of xq over each activation group.
// `row_scale` null: scales are float16, else uint8. `zeros` null: the grid is symmetric.
#define RWKVQUANT_OPERATIONS(body)                                                                                     \
    namespace rwkvquant::body {                                                                                        \
    void gemv_uniform(const std::uint8_t* codes, const std::uint8_t* scales, const std::uint8_t* row_scale,            \
                      const std::uint8_t* zeros, const std::int8_t* xq, const std::uint8_t* xscale,                    \
                      const std::int32_t* xsum, std::size_t rows, std::size_t cols, std::size_t group_size,            \
                      float* out);                                                                                     \
    void gemv_codebook(const std::uint8_t* codes, const std::uint8_t* codebooks, const std::uint8_t* row_scale,        \
                       const std::int8_t* xq, const std::uint8_t* xscale, const std::int32_t* xsum, std::size_t rows,  \
                       std::size_t cols, float* out);                                                                  \
    std::uint64_t read_memory(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead);                       \
    }

RWKVQUANT_OPERATIONS(plain)
#if defined(RWKVQUANT_X86)
RWKVQUANT_OPERATIONS(avx2)
RWKVQUANT_OPERATIONS(avx512)
#endif
