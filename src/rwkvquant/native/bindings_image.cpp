// The engine of models for images for Python. Sizes are checked again here, because the engine has raw pointers into a file.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "bindings_matrix.h"
#include "engine_vrwkv.h"

namespace rwkvquant {
namespace {

using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;

constexpr std::size_t kMaxThreads = 1024, kMaxPatches = std::size_t{1} << 16;  // of a call
constexpr const char* kOp = "image_engine";

// An engine and the arrays it points into.
class BoundImageEngine {
  public:
    BoundImageEngine(std::size_t layers, std::size_t width, std::size_t hidden, bool post_norm, const nb::dict& matrices,
                     const nb::dict& vectors, std::size_t threads, bool quantize_activations) {
        for (const std::size_t size : {layers, width, hidden}) check_rule(kOp, size > 0 && size < kMaxSize, "sizes must be 1 to 2**31 - 1");
        check_rule(kOp, threads > 0 && threads <= kMaxThreads, "threads must be 1 to 1024; got " + std::to_string(threads));
        Weights weights;
        for (const auto [key, value] : matrices) {
            const std::string name = nb::cast<std::string>(key);
            check_rule(kOp, nb::isinstance<HeldMatrix>(value), name + " must be a native.Matrix");
            const HeldMatrix& held = *nb::inst_ptr<HeldMatrix>(value);
            check_rule(kOp, held.codec().product != nullptr, std::string(held.codec().name) + " have no product (" + name + ")");
            kept_.insert(kept_.end(), held.arrays().begin(), held.arrays().end());
            weights.matrices[name] = held.matrix();
        }
        for (const auto [key, value] : vectors) {
            const ReadFloats array = nb::cast<ReadFloats>(value);
            Buffer<float> copy(array.size());
            std::memcpy(copy.data(), array.data(), array.size() * sizeof(float));
            weights.vectors[nb::cast<std::string>(key)] = std::move(copy);
        }
        try {
            engine_ = std::make_unique<ImageEngine>(ImageSizes{layers, width, hidden, post_norm}, std::move(weights), threads,
                                                    quantize_activations);
        } catch (const std::invalid_argument& error) {
            check_rule(kOp, false, error.what());
        }
    }

    void blocks(const Floats& x, std::size_t images, std::size_t rows, std::size_t columns) {
        const std::size_t size = x.size(), width = engine_->sizes.width;
        const bool few = images > 0 && rows > 0 && columns > 0 && images <= kMaxPatches && rows <= kMaxPatches && columns <= kMaxPatches;
        check_rule(kOp, few && images * rows <= kMaxPatches && images * rows * columns <= kMaxPatches, "a call has 1 to 65536 patches");
        check_rule(kOp, size == images * rows * columns * width, "x must hold a vector of the width for each patch");
        const nb::gil_scoped_release released;
        engine_->blocks(x.data(), {images, rows, columns});
    }

    void multiply(const std::string& name, const ReadFloats& x, std::size_t count, const Floats& out) {
        const Matrix* W = nullptr;
        try {
            W = &engine_->outside(name);
        } catch (const std::invalid_argument& error) {
            check_rule(kOp, false, error.what());
        }
        check_rule(kOp, count > 0 && count <= kMaxPatches, "count must be 1 to 65536; got " + std::to_string(count));
        check_rule(kOp, x.size() == count * W->cols && out.size() == count * W->rows, "x must be (count, cols) and out (count, rows)");
        const nb::gil_scoped_release released;
        engine_->multiply(*W, x.data(), count, out.data());
    }

    std::size_t threads() const { return engine_->threads(); }

  private:
    std::vector<Array> kept_;  // before the engine: destroyed after it
    std::unique_ptr<ImageEngine> engine_;
};

}  // namespace

void bind_image(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<BoundImageEngine>(module, "ImageEngine", "A whole model for images; runtime/engines/image_native.py is its only caller.")
        .def(nb::init<std::size_t, std::size_t, std::size_t, bool, const nb::dict&, const nb::dict&, std::size_t, bool>(), "layers"_a,
             "width"_a, "hidden"_a, "post_norm"_a, "matrices"_a, "vectors"_a, "threads"_a, "quantize_activations"_a)
        .def("blocks", &BoundImageEngine::blocks, "x"_a.noconvert(), "images"_a, "rows"_a, "columns"_a,
             "x (images * rows * columns * width), the embeddings of the patches, becomes their features.")
        .def("multiply", &BoundImageEngine::multiply, "name"_a, "x"_a, "count"_a, "out"_a.noconvert(),
             "out (count * rows) = x (count * cols) W^T.")
        .def_prop_ro("threads", &BoundImageEngine::threads, "How many threads work: fewer than asked for where the system gives fewer.");
}

}  // namespace rwkvquant
