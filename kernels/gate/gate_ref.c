#include "core/half.h"
#include "kernels/gate/gate.h"

void wtn_gate_ref(const wtn_gate_ref_args_t *a)
{
    for (int64_t t = 0; t < a->token_count; t++) {
        for (int64_t n = 0; n < a->out_count; n++) {
            float sum = 0.0f;

            for (int64_t k = 0; k < a->H; k++) {
                sum += wtn_load_float(a->x, a->x_dtype, (size_t)(t * a->H + k)) *
                       wtn_load_float(a->weight, a->weight_dtype, (size_t)(n * a->H + k));
            }
            a->logits[t * a->out_count + n] = sum;
        }
    }
}
