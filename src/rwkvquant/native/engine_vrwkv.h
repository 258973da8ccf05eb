// The engine of Vision-RWKV: reads images natively, block by block, with packed matrices. The definition is kernels/vrwkv.py.
//
//     B  images    T = rows * columns  patches of an image    C  width    F  hidden width    x  (B * T, C), patches row by row
//
// A matrix is multiplied with all patches of all images at once. Threads get whole patches, rows in multiples of 32, and whole channels,
// and each patch is computed as if it were alone. So results are the same bits for any number of threads and of images.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"

namespace rwkvquant {

struct ImageSizes {
    std::size_t layers, width, hidden;
    bool post_norm;  // the norms of a block follow its mixes
};

// The patches of a call.
struct Patches {
    std::size_t images, rows, columns;
    std::size_t of_image() const { return rows * columns; }
    std::size_t count() const { return images * rows * columns; }
};

class ImageEngine {
  public:
    // Throws std::invalid_argument, with the name of the tensor, for weights that do not fit the sizes. Heads and the embedding may be any.
    ImageEngine(const ImageSizes& sizes, Weights weights, std::size_t threads, bool quantize_activations);

    // x, the patches' embeddings, becomes the features: all blocks, and the last norm if there is one. One call at a time; others wait.
    void blocks(float* x, const Patches& patches);

    // A matrix outside the blocks. Throws std::invalid_argument if there is none of this name.
    const Matrix& outside(const std::string& name) const;
    // out (count, rows) = x (count, cols) W^T
    void multiply(const Matrix& W, const float* x, std::size_t count, float* out);

    std::size_t threads() const { return pool_.threads(); }
    const ImageSizes sizes;

  private:
    struct Norm {
        const float *weight = nullptr, *bias = nullptr;  // null where the model has no such norm
        explicit operator bool() const { return weight != nullptr; }
    };
    struct Layer {
        Norm ln1, ln2, att_key_norm, ffn_key_norm;
        const float *gamma1, *gamma2;  // layer scale, or null
        const float *decay, *first;
        const float *att_k, *att_v, *att_r, *ffn_k, *ffn_r;  // 1 - spatial_mix: how much of the neighbour is mixed in
        const Matrix *key, *value, *receptance, *output, *ffn_key, *ffn_receptance, *ffn_value;
    };
    struct Product {
        const Matrix* W;
        const Vectors* x;
        float* out;
        std::size_t stride;
        std::optional<Function> finish = {};
    };

    Norm norm(const std::string& name, std::size_t size, bool optional) const;
    const float* optional_vector(const std::string& name, std::size_t size) const;
    const float* neighbour_share(const std::string& name);
    void reserve(std::size_t count);

    void spatial_mix(const Worker& worker, const Layer& layer, float* x, const Patches& patches);
    void channel_mix(const Worker& worker, const Layer& layer, float* x, const Patches& patches);
    void mix(const float* from, std::size_t patch, const Patches& patches, const float* share, const Vectors& to) const;
    void add_branch(float* x, std::size_t patch, const Norm& ln, const float* gamma) const;
    void normalize(const float* x, std::size_t patch, const Norm& ln) const;
    void apply_norm(const float* x, const Norm& ln, std::size_t size, float* y) const;
    void quantize(const Vectors& y, std::size_t patch) const;
    void multiply_all(const Worker& worker, std::initializer_list<Product> products, std::size_t count) const;
    void multiply_by_columns(const Worker& worker, const Product& product, std::size_t count) const;

    Weights weights_;
    const bool quantized_;
    std::vector<Buffer<float>> shares_;
    std::vector<Layer> layers_;
    Norm ln0_, ln1_;
    Buffer<float> zeros_, decay_, first_;           // (C,)
    Vectors xk_, xv_, xr_, hidden_;                 // inputs of products
    std::size_t reserved_ = 0;
    Buffer<float> y_, k_, v_, r_, branch_;          // (patches, C)
    Buffer<float> scratch_;                         // (threads, patches of an image, 3, 16)
    Buffer<std::uint8_t> prepared_;                 // (threads, 16) patches as a matrix stored by columns reads them
    std::size_t prepared_bytes_ = 0;                // of a patch
    Buffer<std::uint8_t> room_;                     // (threads,) of room_bytes_, for preparing them
    std::size_t room_bytes_ = 0;
    std::size_t scratch_patches_ = 0;
    ThreadPool pool_;
    std::mutex busy_;
};

}  // namespace rwkvquant
