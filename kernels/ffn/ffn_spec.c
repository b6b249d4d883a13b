#include <inttypes.h>

#include "core/error.h"
#include "kernels/ffn/ffn.h"

witan_status_t wtn_ffn_spec_check(const wtn_ffn_spec_t *spec)
{
    if (spec->hidden_size < 1 || spec->inter_begin < 0 || spec->inter_end < spec->inter_begin ||
        spec->expert_count < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "experts: hidden size %" PRId64 ", width from %" PRId64 " to %" PRId64
                         ", %" PRId32 " experts",
                         spec->hidden_size, spec->inter_begin, spec->inter_end, spec->expert_count);
    }
    if (spec->experts == NULL &&
        (spec->expert_count > 1 || spec->has_gate_up_bias || spec->has_down_bias)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "shared expert: expected one without biases, found %" PRId32
                         " with gate_up %d, down %d",
                         spec->expert_count, spec->has_gate_up_bias, spec->has_down_bias);
    }
    return WITAN_OK;
}
