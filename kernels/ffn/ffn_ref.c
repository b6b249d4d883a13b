#include "core/half.h"
#include "experts/activation.h"
#include "kernels/ffn/ffn.h"

static float dot(const void *w, const void *x, witan_dtype_t dtype, int64_t row, int64_t K)
{
    float sum = 0.0f;

    for (int64_t k = 0; k < K; k++) {
        sum +=
            wtn_load_float(x, dtype, (size_t)k) * wtn_load_float(w, dtype, (size_t)(row * K + k));
    }
    return sum;
}

void wtn_ffn_ref(const wtn_ffn_ref_args_t *a)
{
    for (int64_t i = 0; i < a->I; i++) {
        float u = dot(a->up, a->x, a->dtype, i, a->H);
        float g = a->gate == NULL ? 0.0f : dot(a->gate, a->x, a->dtype, i, a->H);

        u += a->up_bias == NULL ? 0.0f : a->up_bias[i];
        g += a->gate_bias == NULL ? 0.0f : a->gate_bias[i];
        wtn_store_float(a->h, a->dtype, (size_t)i, wtn_activation_gated_ref(a->activation, g, u));
    }
    for (int64_t n = 0; n < a->H; n++) {
        float y = dot(a->down, a->h, a->dtype, n, a->I);

        y += a->down_bias == NULL ? 0.0f : a->down_bias[n];
        wtn_store_float(a->out, a->dtype, (size_t)n, y);
    }
}
