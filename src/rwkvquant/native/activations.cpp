#include "activations.h"

#include "tiles.h"

namespace rwkvquant {

void group_sums(const std::int8_t* xq, std::size_t groups, std::int32_t* xsum) {
    for (std::size_t g = 0; g < groups; ++g) {
        std::int32_t sum = 0;
        for (std::size_t c = 0; c < kActivationGroup; ++c) sum += xq[kActivationGroup * g + c];
        xsum[g] = sum;
    }
}

}  // namespace rwkvquant
