#include "core/half.h"
#include "experts/activation.h"
#include "kernels/ffn/ffn.h"

static void up(const wtn_epilogue_up_args_t *a, witan_dtype_t dtype)
{
    const int32_t columns = wtn_gemm_ref[dtype].panel_columns;
    const int32_t half    = a->activation->gated ? columns / 2 : 0;

    for (int32_t r = 0; r < a->rows; r++) {
        for (int32_t n = 0; n < a->column_count; n++) {
            float g = a->sums[r * columns + n];
            float u = a->sums[r * columns + half + n];
            float h;
            float rounded;

            if (a->bias != NULL) {
                g += a->bias[n];
                u += a->bias[half + n];
            }
            h = wtn_activation_gated_ref(a->activation, g, u);
            wtn_store_float(&rounded, dtype, 0, h);
            ((float *)a->h)[(a->column_begin + n) * a->rows + r] =
                wtn_load_float(&rounded, dtype, 0);
        }
    }
}

static void down(const wtn_epilogue_down_args_t *a, witan_dtype_t dtype)
{
    const int32_t columns = wtn_gemm_ref[dtype].panel_columns;

    for (int32_t r = 0; r < a->rows; r++) {
        for (int32_t n = 0; n < a->column_count; n++) {
            float y = a->sums[r * columns + n];

            y += a->bias == NULL ? 0.0f : a->bias[n];
            wtn_store_float(a->out[r], dtype, (size_t)(a->column_begin + n), y);
        }
    }
}

#define EPILOGUE_TABLE wtn_ffn_epilogue_ref
#include "kernels/ffn/ffn_epilogue_table.h"
