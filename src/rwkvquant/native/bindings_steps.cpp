// The operations besides the products, one by one, so that tests can compare each with its definition in kernels/.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "bodies.h"
#include "sampling.h"

namespace rwkvquant {
namespace {

using Read = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutputRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadBytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutputBytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_sizes(const char* op, std::size_t size, std::initializer_list<std::size_t> sizes) {
    for (const std::size_t each : sizes) {
        check_rule(op, each == size, "arrays must hold " + std::to_string(size) + " values; got " + std::to_string(each));
    }
}

void check_range(const char* op, std::size_t begin, std::size_t end, std::size_t size) {
    check_rule(op, begin <= end && end <= size, "columns must begin and end inside the vector");
}

void layer_norm(const Read& x, const Read& weight, const Read& bias, float eps, std::size_t begin, std::size_t end, const Output& y) {
    check_sizes("layer_norm", x.size(), {weight.size(), bias.size(), y.size()});
    check_range("layer_norm", begin, end, x.size());
    operations().layer_norm(x.data(), weight.data(), bias.data(), x.size(), eps, begin, end, y.data());
}

void token_shift(const Read& x, const Read& previous, const Read& mu, const std::optional<Read>& lean, std::size_t begin, std::size_t end,
                 const Output& y) {
    check_sizes("token_shift", x.size(), {previous.size(), mu.size(), lean ? lean->size() : x.size(), y.size()});
    check_range("token_shift", begin, end, x.size());
    operations().token_shift(x.data(), previous.data(), mu.data(), lean ? lean->data() : nullptr, begin, end, y.data());
}

void apply(const std::string& name, const Output& x, std::size_t begin, std::size_t end) {
    check_range("apply", begin, end, x.size());
    const bool known = name == "sigmoid" || name == "tanh" || name == "silu" || name == "squared_relu";
    check_rule("apply", known, "function must be sigmoid, tanh, silu or squared_relu; got " + name);
    const Function function = name == "sigmoid" ? Function::kSigmoid
                              : name == "tanh"  ? Function::kTanh
                              : name == "silu"  ? Function::kSilu
                                                : Function::kSquaredRelu;
    operations().apply(function, x.data(), begin, end);
}

void keys7(const Read& k, const Read& v, const Read& w, const Read& a, const std::optional<Read>& v_gate, const Read& w0, const Read& a0,
           const std::optional<Read>& v0, const Read& k_k, const Read& k_a, const Output& v_first, const Output& w_to, const Output& k_to,
           const Output& v_to, const Output& kappa, const Output& a_kappa) {
    const std::size_t N = k.size();
    check_rule("keys7", v_gate.has_value() == v0.has_value(), "v_gate and v0 must be given together");
    check_sizes("keys7", N, {v.size(), w.size(), a.size(), w0.size(), a0.size(), k_k.size(), k_a.size(), v_first.size(), w_to.size()});
    check_sizes("keys7", N, {k_to.size(), v_to.size(), kappa.size(), a_kappa.size(), v_gate ? v_gate->size() : N, v0 ? v0->size() : N});
    operations().keys7({k.data(), v.data(), w.data(), a.data(), v_gate ? v_gate->data() : nullptr, w0.data(), a0.data(),
                             v0 ? v0->data() : nullptr, k_k.data(), k_a.data(), v_first.data()},
                            {w_to.data(), k_to.data(), v_to.data(), kappa.data(), a_kappa.data()}, N);
}

void wkv7(const Read& S, const Read& r, const Output& w, const Output& k, const Output& v, const Output& kappa, const Output& a_kappa,
          const Output& o, const Output& S_to) {
    const std::size_t N = r.size();
    check_sizes("wkv7", N, {w.size(), k.size(), v.size(), kappa.size(), a_kappa.size(), o.size()});
    check_sizes("wkv7", N * N, {S.size(), S_to.size()});
    operations().wkv7(S.data(), S_to.data(), r.data(), {w.data(), k.data(), v.data(), kappa.data(), a_kappa.data()}, N, o.data());
}

void bonus7(const Output& y, const Read& r, const Read& k, const Read& r_k, const Read& v, const Read& g) {
    check_sizes("bonus7", y.size(), {r.size(), k.size(), r_k.size(), v.size(), g.size()});
    operations().bonus7(r.data(), k.data(), r_k.data(), v.data(), g.data(), y.size(), y.data());
}

void decay6(const Read& w0, const Read& d, const Output& w) {
    check_sizes("decay6", w.size(), {w0.size(), d.size()});
    operations().decay6(w0.data(), d.data(), w.size(), w.data());
}

void wkv6(const Read& S, const Read& r, const Read& w, const Read& k, const Read& v, const Read& u, const Output& o, const Output& S_to) {
    const std::size_t N = r.size();
    check_sizes("wkv6", N, {w.size(), k.size(), v.size(), u.size(), o.size()});
    check_sizes("wkv6", N * N, {S.size(), S_to.size()});
    operations().wkv6(S.data(), S_to.data(), r.data(), w.data(), k.data(), v.data(), u.data(), N, o.data());
}

void bi_wkv(const Read& w, const Read& u, const Read& k, const Read& v, std::size_t begin, std::size_t end, const Output& y) {
    const std::size_t width = w.size();
    check_sizes("bi_wkv", width, {u.size()});
    check_rule("bi_wkv", width > 0 && k.size() > 0 && k.size() % width == 0, "k must hold a value for each channel of each token");
    check_sizes("bi_wkv", k.size(), {v.size(), y.size()});
    check_range("bi_wkv", begin, end, width);
    const std::size_t tokens = k.size() / width;
    std::vector<float> scratch(48 * tokens);
    operations().bi_wkv(w.data(), u.data(), k.data(), v.data(), tokens, width, begin, end, scratch.data(), y.data());
}

void pack_state(const Read& S, std::size_t size, const OutputBytes& rows) {
    check_rule("pack_state", size % 2 == 0, "a head has an even size");
    check_sizes("pack_state", size * size, {S.size()});
    check_sizes("pack_state", size * (size + size / 2 + sizeof(float)), {rows.size()});
    operations().pack_state(S.data(), size, rows.data());
}

void unpack_state(const ReadBytes& rows, std::size_t size, const Output& S) {
    check_rule("unpack_state", size % 2 == 0, "a head has an even size");
    check_sizes("unpack_state", size * size, {S.size()});
    check_sizes("unpack_state", size * (size + size / 2 + sizeof(float)), {rows.size()});
    operations().unpack_state(rows.data(), size, S.data());
}

void check_rotated(const char* name, std::size_t size, std::size_t bytes) {
    check_rule(name, size % 2 == 0, "a head has an even size");
    check_sizes(name, size * (size + sizeof(float)), {bytes});
}

void pack_rotated(const Read& S, std::size_t size, std::uint32_t seed, const OutputBytes& rows) {
    check_rotated("pack_rotated", size, rows.size());
    check_sizes("pack_rotated", size * size, {S.size()});
    std::vector<float> turned(S.data(), S.data() + S.size());
    operations().pack_rotated(turned.data(), size, seed, rows.data());
}

void unpack_rotated(const ReadBytes& rows, std::size_t size, const Output& S) {
    check_rotated("unpack_rotated", size, rows.size());
    check_sizes("unpack_rotated", size * size, {S.size()});
    operations().unpack_rotated(rows.data(), size, S.data());
}

std::uint32_t seed_of_rows(const ReadBytes& rows, std::size_t size) {
    check_rotated("seed_of_rows", size, rows.size());
    return operations().seed_of_rows(rows.data(), size);
}

// Vectors of one width, one after the other.
void hadamard(const ReadRows& x, const ReadBytes& signs, const OutputRows& y) {
    const std::size_t count = x.shape(0), width = x.shape(1);
    check_rule("hadamard", width > 0 && signs.size() >= (width + 7) / 8, "signs must have a bit for each of at least one value");
    check_sizes("hadamard", x.size(), {y.size()});
    const nb::gil_scoped_release released;
    for (std::size_t i = 0; i < count; ++i) operations().hadamard(x.data() + i * width, signs.data(), width, y.data() + i * width);
}

template <std::size_t (*chosen)(const float*, std::size_t, const Filters&, double)>
std::size_t draw_token(const Read& scores, double temperature, double top_p, double uniform, std::size_t top_k, double min_p) {
    check_rule("draw", scores.size() > 0, "there must be scores to draw from");
    check_rule("draw", temperature > 0, "temperature is above 0");
    return chosen(scores.data(), scores.size(), {temperature, top_p, top_k, min_p}, uniform);
}

}  // namespace

void bind_steps(nb::module_& module) {
    using namespace nb::literals;
    module.def("layer_norm", &layer_norm, "x"_a, "weight"_a, "bias"_a, "eps"_a, "begin"_a, "end"_a, "y"_a.noconvert());
    module.def("draw", &draw_token<draw>, "scores"_a, "temperature"_a, "top_p"_a, "uniform"_a, "top_k"_a = 0, "min_p"_a = 0.0);
    module.def("draw_plain", &draw_token<draw_plain>, "scores"_a, "temperature"_a, "top_p"_a, "uniform"_a, "top_k"_a = 0, "min_p"_a = 0.0,
               "What draw draws, slowly, for tests.");
    module.def("token_shift", &token_shift, "x"_a, "previous"_a, "mu"_a, "lean"_a.none(), "begin"_a, "end"_a, "y"_a.noconvert());
    module.def("apply", &apply, "function"_a, "x"_a.noconvert(), "begin"_a, "end"_a);
    module.def("keys7", &keys7, "k"_a, "v"_a, "w"_a, "a"_a, "v_gate"_a.none(), "w0"_a, "a0"_a, "v0"_a.none(), "k_k"_a, "k_a"_a,
               "v_first"_a.noconvert(), "w_to"_a.noconvert(), "k_to"_a.noconvert(), "v_to"_a.noconvert(), "kappa"_a.noconvert(),
               "a_kappa"_a.noconvert());
    module.def("wkv7", &wkv7, "S"_a, "r"_a, "w"_a, "k"_a, "v"_a, "kappa"_a, "a_kappa"_a, "o"_a.noconvert(), "S_to"_a.noconvert());
    module.def("bonus7", &bonus7, "y"_a.noconvert(), "r"_a, "k"_a, "r_k"_a, "v"_a, "g"_a);
    module.def("decay6", &decay6, "w0"_a, "d"_a, "w"_a.noconvert());
    module.def("bi_wkv", &bi_wkv, "w"_a, "u"_a, "k"_a, "v"_a, "begin"_a, "end"_a, "y"_a.noconvert());
    module.def("pack_state", &pack_state, "S"_a, "size"_a, "rows"_a.noconvert());
    module.def("hadamard", &hadamard, "x"_a, "signs"_a, "y"_a.noconvert());
    module.def("unpack_state", &unpack_state, "rows"_a, "size"_a, "S"_a.noconvert());
    module.def("pack_rotated", &pack_rotated, "S"_a, "size"_a, "seed"_a, "rows"_a.noconvert());
    module.def("unpack_rotated", &unpack_rotated, "rows"_a, "size"_a, "S"_a.noconvert());
    module.def("seed_of_rows", &seed_of_rows, "rows"_a, "size"_a);
    module.def("wkv6", &wkv6, "S"_a, "r"_a, "w"_a, "k"_a, "v"_a, "u"_a, "o"_a.noconvert(), "S_to"_a.noconvert());
}

}  // namespace rwkvquant
