// What all bindings check of their arguments: flat arrays of the right type and size. The code below the bindings has raw pointers.
//
// Arrays may be longer than needed: the file pads them to 64 bytes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

#include "codec.h"

namespace rwkvquant {

namespace nb = nanobind;

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr nb::dlpack::dtype kUint8{static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 8, 1};
constexpr nb::dlpack::dtype kUint16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt), 16, 1};
constexpr nb::dlpack::dtype kInt8{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 8, 1};
constexpr nb::dlpack::dtype kInt32{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 32, 1};
constexpr nb::dlpack::dtype kFloat16{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
constexpr nb::dlpack::dtype kFloat32{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 32, 1};

inline void check_rule(const char* op, bool holds, const std::string& rule) {
    if (!holds) throw nb::value_error(("[" + std::string(op) + "] " + rule).c_str());
}

inline std::string dtype_name(nb::dlpack::dtype type) {
    const bool is_float = type == kFloat16 || type == kFloat32 || (type.bits == 64 && type.code == kFloat32.code);
    const char* kind = is_float ? "float" : type.code == kUint8.code ? "uint" : type.code == kInt8.code ? "int" : "dtype";
    return kind + std::to_string(type.bits);
}

// The raw bytes of an argument, or a ValueError that names it and says the rule and what came.
inline const std::uint8_t* checked(const char* op, const char* name, const Array& array, nb::dlpack::dtype type, std::size_t count) {
    const std::string what(name);
    check_rule(op, array.dtype() == type, what + " must be " + dtype_name(type) + "; got " + dtype_name(array.dtype()));
    const bool flat = array.ndim() == 1 && (array.shape(0) <= 1 || array.stride(0) == 1);
    check_rule(op, flat, what + " must be flat and contiguous; got " + std::to_string(array.ndim()) + " dimensions or a stride");
    const std::string rule = what + " must hold " + std::to_string(count) + " values; got " + std::to_string(array.shape(0));
    check_rule(op, array.shape(0) >= count, rule);
    return static_cast<const std::uint8_t*>(array.data());
}

// The same for arrays that are not from a file: they must be aligned for their type. Those from a file may be at any address.
template <typename T>
const T* checked_numbers(const char* op, const char* name, const Array& array, nb::dlpack::dtype type, std::size_t count) {
    const std::uint8_t* data = checked(op, name, array, type, count);
    check_rule(op, reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0, std::string(name) + " must be aligned as its type is");
    return reinterpret_cast<const T*>(data);
}

}  // namespace rwkvquant
