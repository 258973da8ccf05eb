// The bytes of a vector register, for vectors of the compiler that are written out because it makes none of a plain loop.
#pragma once

#include <cstddef>

namespace rwkvquant::RWKVQUANT_BODY {

#if defined(__AVX512F__)
constexpr std::size_t kRegister = 64;
#elif defined(__AVX__)
constexpr std::size_t kRegister = 32;
#else
constexpr std::size_t kRegister = 16;
#endif

}  // namespace rwkvquant::RWKVQUANT_BODY
