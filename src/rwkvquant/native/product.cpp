// out = W x for every layout; the rules are in matrix.h, the definition in kernels/product.py.
#include "product.h"

#include "operations.h"

namespace rwkvquant::RWKVQUANT_BODY {

void product(const Matrix& matrix, const Activations& activations, float* out, std::size_t out_stride, std::size_t row_begin,
             std::size_t row_end) {
    switch (matrix.codec) {
        case Codec::kUniform: return product_uniform(matrix, activations, out, out_stride, row_begin, row_end);
        case Codec::kCodebook: return product_codebook(matrix, activations, out, out_stride, row_begin, row_end);
        case Codec::kPairs: return product_pairs(matrix, activations, out, out_stride, row_begin, row_end);
        case Codec::kHalf:
        case Codec::kBfloat:
        case Codec::kFloat: return product_dense(matrix, activations, out, out_stride, row_begin, row_end);
    }
}

}  // namespace rwkvquant::RWKVQUANT_BODY
