// The products once for each instruction set. The bodies come from one source file each, compiled three times with other flags:
// CMakeLists.txt defines RWKVQUANT_BODY as plain, avx2 or avx512, and RWKVQUANT_AVX2 or RWKVQUANT_AVX512 with it; on ARM as plain,
// neon or i8mm, and RWKVQUANT_NEON, with RWKVQUANT_I8MM for the last. The two of ARM have a product and its measure, and nothing else.
//
// A file compiled with such flags must not emit inline functions that other files share: the linker keeps one copy of each, and
// if it kept the AVX-512 one, an older CPU would meet an illegal instruction in code that looks harmless. So the bodies include
// nothing of the C++ library but integer types, and what they share lives in the body's own namespace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.h"

//  product               out[b * out_stride + r] for rows row_begin .. row_end, multiples of 16; row_end may be `rows`. The bits depend
//                        neither on how the rows are split nor on how many vectors stand side by side.
//  quantize_activations  x (count, padded) with zeros in the padding -> q (count, padded), scale (count, groups), minus_sum
//                        (count, 2 groups)
//  read_memory           the measure of memory bandwidth
//  dot_bytes             the measure of arithmetic
#define RWKVQUANT_OPERATIONS(body)                                                                                     \
    namespace rwkvquant::body {                                                                                        \
    void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride,             \
                 std::size_t row_begin, std::size_t row_end);                                                          \
    void quantize_activations(const float* x, std::size_t count, std::size_t cols, std::int8_t* q, float* scale,       \
                              std::int32_t* minus_sum);                                                                \
    std::uint64_t read_memory(const std::uint8_t* memory, std::size_t bytes, std::size_t ahead);                       \
    std::uint32_t dot_bytes(const std::uint8_t* a, const std::int8_t* q, std::size_t rounds);                          \
    }

RWKVQUANT_OPERATIONS(plain)
#if defined(RWKVQUANT_X86)
RWKVQUANT_OPERATIONS(avx2)
RWKVQUANT_OPERATIONS(avx512)
#elif defined(RWKVQUANT_ARM)
RWKVQUANT_OPERATIONS(neon)
RWKVQUANT_OPERATIONS(i8mm)
#endif
