#include "dispatch.h"
#include "step_operations.h"

namespace rwkvquant {
namespace {

#define RWKVQUANT_TABLE(body)                                                                                                      \
    StepOperations{#body,           body::layer_norm, body::token_shift, body::apply,      body::add,         body::multiply, body::keys7, \
                   body::wkv7,      body::bonus7,     body::exponentials, body::decay6,    body::wkv6,        body::decode_row, \
                   body::decode_halves}

const StepOperations kTables[] = {
    RWKVQUANT_TABLE(plain),
#if defined(RWKVQUANT_X86)
    RWKVQUANT_TABLE(avx2),
    RWKVQUANT_TABLE(avx512),
#endif
};

}  // namespace

const StepOperations& step_operations() {
    const std::string_view isa = operations().isa;
    for (const StepOperations& table : kTables) {
        if (table.isa == isa) return table;
    }
    return kTables[0];
}

}  // namespace rwkvquant
