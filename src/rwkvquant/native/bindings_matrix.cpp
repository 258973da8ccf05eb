// The one place where a matrix from Python is checked. The rules themselves are in the codec's file (codec.h).
#include "bindings_matrix.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"

namespace rwkvquant {
namespace {

constexpr const char* kMatrix = "Matrix";

nb::dlpack::dtype dtype_of(Type type) {
    switch (type) {
        case Type::kUint8: return kUint8;
        case Type::kInt8: return kInt8;
        case Type::kUint16: return kUint16;
        case Type::kFloat16: return kFloat16;
        case Type::kFloat32: break;
    }
    return kFloat32;
}

class PythonDescription final : public Description {
  public:
    PythonDescription(const nb::dict& numbers, const nb::dict& arrays, std::vector<Array>& kept)
        : numbers_(numbers), arrays_(arrays), kept_(kept) {}

    std::size_t number(const char* name, std::size_t least, std::size_t most) override {
        const std::size_t value = whole(name);
        check_rule(kMatrix, least <= value && value <= most,
                   std::string(name) + " must be " + std::to_string(least) + " to " + std::to_string(most) + "; got " + std::to_string(value));
        return value;
    }

    std::size_t one_of(const char* name, std::initializer_list<std::size_t> choices) override {
        const std::size_t value = whole(name);
        std::string rule = std::string(name) + " must be ";
        for (const std::size_t& choice : choices) {
            if (choice == value) return value;
            rule += (&choice == choices.begin() ? "" : " or ") + std::to_string(choice);
        }
        check_rule(kMatrix, false, rule + "; got " + std::to_string(value));
        return value;
    }

    const std::uint8_t* array(const char* name, Type type, std::size_t count) override {
        check_rule(kMatrix, arrays_.contains(name), std::string(name) + " is missing");
        const nb::object given = arrays_[name];
        Array array;
        check_rule(kMatrix, nb::try_cast<Array>(given, array),
                   std::string(name) + " must be an array; got " + nb::cast<std::string>(nb::str(given.type().attr("__name__"))));
        const bool raw = array.dtype() == kUint8;  // the bytes as the file holds them
        const std::size_t bytes = dtype_of(type).bits / 8 * count;
        const std::uint8_t* data = checked(kMatrix, name, array, raw ? kUint8 : dtype_of(type), raw ? bytes : count);
        kept_.push_back(array);
        total_ += array.shape(0) * array.itemsize();
        return data;
    }

    std::uint8_t* room(std::size_t bytes) override {
        auto* const memory = new std::uint8_t[bytes]();
        const nb::capsule owner(memory, [](void* held) noexcept { delete[] static_cast<std::uint8_t*>(held); });
        kept_.push_back(Array(memory, {bytes}, owner, {}, kUint8));
        return memory;
    }

    void require(bool holds, const char* rule) override { check_rule(kMatrix, holds, rule); }

    std::size_t total() const { return total_; }  // bytes of the arrays taken

  private:
    std::size_t whole(const char* name) const {
        check_rule(kMatrix, numbers_.contains(name), std::string(name) + " is missing");
        const nb::object given = numbers_[name];
        std::size_t value = 0;
        check_rule(kMatrix, nb::try_cast<std::size_t>(given, value) && value < kMaxSize,
                   std::string(name) + " must be a whole number below 2**31; got " + nb::cast<std::string>(nb::repr(given)));
        return value;
    }

    const nb::dict &numbers_, &arrays_;
    std::vector<Array>& kept_;
    std::size_t total_ = 0;
};

// The names of the codecs that `has` accepts.
template <typename Has>
std::vector<std::string> names(const Has& has) {
    std::vector<std::string> result;
    for (const Codec* const* codec = operations().codecs; *codec != nullptr; ++codec) {
        if (has(**codec)) result.emplace_back((*codec)->name);
    }
    return result;
}

std::size_t place_of(const std::string& name) {
    const Codec* const* codecs = operations().codecs;
    std::size_t place = 0;
    while (codecs[place] != nullptr && codecs[place]->name != name) ++place;
    if (codecs[place] == nullptr) {
        std::string known;
        for (const std::string& each : names([](const Codec&) { return true; })) known += (known.empty() ? "" : ", ") + each;
        check_rule(kMatrix, false, "codec must be one of " + known + "; got " + name);
    }
    return place;
}

}  // namespace

HeldMatrix::HeldMatrix(const std::string& codec, std::size_t rows, std::size_t cols, const nb::dict& numbers, const nb::dict& arrays,
                       const std::optional<Array>& signs, const std::optional<Array>& divisors) {
    const bool sizes = rows > 0 && cols > 0 && rows < kMaxSize && cols < kMaxSize;
    const std::string came = "; got " + std::to_string(rows) + " x " + std::to_string(cols);
    check_rule(kMatrix, sizes, "rows and cols must be 1 to 2**31 - 1" + came);
    check_rule(kMatrix, rows * cols < kMaxWeights, "a matrix must have fewer than 2**40 weights" + came);
    matrix_.codec = place_of(codec), matrix_.rows = rows, matrix_.cols = cols;
    PythonDescription given(numbers, arrays, arrays_);
    this->codec().describe(given, matrix_);
    matrix_.bytes = given.total();
    if (!signs && !divisors) return;
    check_rule(kMatrix, this->codec().by_columns == nullptr, "a matrix stored by columns has no transform of its input");
    if (divisors) {
        matrix_.transform.divisors = checked_numbers<float>(kMatrix, "divisors", *divisors, kFloat32, cols);
        arrays_.push_back(*divisors);
    }
    if (signs) {
        matrix_.transform.signs = checked(kMatrix, "signs", *signs, kUint8, (cols + 7) / 8);
        arrays_.push_back(*signs);
    }
}

void bind_matrix(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<HeldMatrix>(module, "Matrix",
                           "A packed matrix and its arrays, which it keeps alive. The codec's file in native/ says which numbers and arrays "
                           "it has; others are ignored. Arrays are flat, of the codec's type or as raw bytes (uint8). divisors (cols,) "
                           "float32: the matrix is for inputs divided by them; signs: for inputs transformed by `hadamard` with these bits. With "
                           "both, divided first. The engine does that, and `product` does not.")
        .def(nb::init<const std::string&, std::size_t, std::size_t, const nb::dict&, const nb::dict&, const std::optional<Array>&,
                      const std::optional<Array>&>(),
             "codec"_a, "rows"_a, "cols"_a, "numbers"_a, "arrays"_a, "signs"_a = nb::none(), "divisors"_a = nb::none());
    module.def("codecs_with_a_product", [] { return names([](const Codec& codec) { return codec.product != nullptr; }); },
               "Names of the codecs that `product` and the engine multiply.");
    module.def("codecs_with_rows", [] { return names([](const Codec& codec) { return codec.decode_row != nullptr; }); },
               "Names of the codecs that are read row by row, as an embedding is.");
}

}  // namespace rwkvquant
