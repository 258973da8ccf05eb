// The list of codecs, one line each.
#include "codec.h"

namespace rwkvquant::RWKVQUANT_BODY {

extern const Codec kUniform;   // product_uniform.cpp
extern const Codec kCodebook;  // product_codebook.cpp
extern const Codec kPairs;     // product_pairs.cpp
extern const Codec kPolar;     // product_polar.cpp
extern const Codec kColumnwise;  // product_columnwise.cpp
extern const Codec kSections;  // product_columnwise.cpp
extern const Codec kDense;     // product_dense.cpp
extern const Codec kBfloat;    // product_dense.cpp
extern const Codec kRows;      // rows.cpp

extern const Codec* const codecs[];
constinit const Codec* const codecs[] = {&kUniform,  &kCodebook, &kPairs,  &kPolar, &kColumnwise,
                                                 &kSections, &kDense,    &kBfloat, &kRows,  nullptr};

}  // namespace rwkvquant::RWKVQUANT_BODY
