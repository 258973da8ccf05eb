// The Python module. Only bindings*.cpp and arguments.h see Python, and they check every dtype, size and contiguity.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "bodies.h"
#include "tiles.h"

namespace rwkvquant {
namespace {

std::uint64_t read_memory(const Array& memory, std::size_t ahead) {
    const auto* data = checked("read_memory", "memory", memory, kUint8, 0);
    const std::size_t bytes = memory.shape(0);
    check_rule("read_memory", bytes % 256 == 0, "memory must be a multiple of 256 bytes; got " + std::to_string(bytes));

    const nb::gil_scoped_release released;
    return operations().read_memory(data, bytes, ahead);
}

std::uint32_t dot_bytes(const Array& a, const Array& q, std::size_t rounds) {
    const char* op = "dot_bytes";
    const auto* a_data = checked(op, "a", a, kUint8, 2 * kTileRows * kActivationGroup);
    const auto* q_data = reinterpret_cast<const std::int8_t*>(checked(op, "q", q, kInt8, 8 * kActivationGroup));
    std::uint8_t all = 0;
    for (std::size_t i = 0; i < 2 * kTileRows * kActivationGroup; ++i) all |= a_data[i];
    check_rule(op, all < 128, "a must be below 128");

    const nb::gil_scoped_release released;
    return operations().dot_bytes(a_data, q_data, rounds);
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Operations* body : available()) names.emplace_back(body->isa);
    return names;
}

void set_isa(std::string_view name) {
    if (set_operations(name)) return;
    std::string message = "this CPU and build cannot run \"" + std::string(name) + "\"; available:";
    for (const std::string& isa : available_isas()) message += " " + isa;
    throw nb::value_error(message.c_str());
}

}  // namespace
}  // namespace rwkvquant

NB_MODULE(_native, module) {
    using namespace nanobind::literals;
    module.doc() = "Native bodies of the operations in rwkvquant.kernels; call them through rwkvquant.kernels.dispatch.";
    rwkvquant::bind_matrix(module);
    rwkvquant::bind_product(module);
    rwkvquant::bind_engine(module);
    rwkvquant::bind_image(module);
    rwkvquant::bind_steps(module);
    rwkvquant::bind_workshop(module);
    module.def("read_memory", &rwkvquant::read_memory, "memory"_a, "ahead"_a,
               "The xor of all 64-bit words of memory (uint8), read once as fast as one core can, prefetching `ahead` bytes.");
    module.def("dot_bytes", &rwkvquant::dot_bytes, "a"_a, "q"_a, "rounds"_a,
               "The sum, modulo 2**32, of `rounds` times 16,384 products, calculated as fast as one core can. See native/dot_rate.cpp.");
    module.def("available_isas", &rwkvquant::available_isas,
               "Names of the instruction sets that this CPU and build can run, slowest first.");
    module.def("isa", [] { return std::string(rwkvquant::operations().isa); }, "Name of the instruction set in use.");
    module.def("set_isa", &rwkvquant::set_isa, "name"_a,
               "Choose the instruction set for the whole process. Raises ValueError for one that is not available.");
}
