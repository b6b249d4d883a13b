#include "kernels/ffn/ffn_epilogue.h"

/* h as pairs of bf16; the odd place after a last column is zero. */
static void up_pairs(const wtn_epilogue_up_args_t *a)
{
    uint32_t *to = (uint32_t *)a->h + a->column_begin / 2 * a->rows;
    float     h[COLUMNS];
    uint16_t  rounded[COLUMNS] = {0};

    for (int32_t r = 0; r < a->rows; r++) {
        up_row(a, r, h);
        vec_store_bf16(rounded, vec_load(h));
        if (!a->activation->gated) {
            vec_store_bf16(rounded + VEC_LANES, vec_load(h + VEC_LANES));
        }
        if (a->column_count % 2 != 0) {
            rounded[a->column_count] = 0;
        }
        for (int32_t n = 0; n < a->column_count; n += 2) {
            memcpy(&to[n / 2 * a->rows + r], &rounded[n], sizeof(uint32_t));
        }
    }
}

static void down_bf16(const wtn_epilogue_down_args_t *args)
{
    down(args, WITAN_BF16);
}

const wtn_ffn_epilogue_t wtn_ffn_epilogue_avx512_bf16 = {up_pairs, down_bf16};
