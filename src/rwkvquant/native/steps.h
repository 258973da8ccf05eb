// Arguments of the operations of a step that are not plain arrays. The definitions are in kernels/: functions.py, token_shift.py, wkv7.py,
// wkv6.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rwkvquant {

enum class Function { kSigmoid, kTanh, kSilu, kSquaredRelu };

// One head's part of the outputs of RWKV-7's projections and LoRA pairs, and of the layer's vectors; each (N,).
struct Keys7 {
    const float *k, *v, *w, *a, *v_gate;   // products of key, value, w2, a2, v2; v_gate is null in the first layer
    const float *w0, *a0, *v0, *k_k, *k_a;
    float* v_first;                        // written in the first layer, read in the others
};

// One head's inputs of the recurrence, each (N,).
struct Head7 {
    float *w, *k, *v, *kappa, *a_kappa;
};

}  // namespace rwkvquant
