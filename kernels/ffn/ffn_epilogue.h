/* Template: the epilogues on vectors, for panels of two vectors. */

#include <string.h>

#include "core/half.h"
#include "kernels/activation/activation_vector.h"
#include "kernels/ffn/ffn.h"

#define COLUMNS (2 * VEC_LANES)

/* One row of sums to columns of h, in fp32. */
VEC_INLINE void up_row(const wtn_epilogue_up_args_t *a, int32_t row, float *h)
{
    const float *sums  = a->sums + row * COLUMNS;
    vec_t        left  = vec_load(sums);
    vec_t        right = vec_load(sums + VEC_LANES);

    if (a->bias != NULL) {
        left  = vec_add(left, vec_load(a->bias));
        right = vec_add(right, vec_load(a->bias + VEC_LANES));
    }
    if (a->activation->gated) {
        vec_store(h, vec_activate_gated(a->activation, left, right));
    } else {
        vec_store(h, vec_activate_gated(a->activation, left, left));
        vec_store(h + VEC_LANES, vec_activate_gated(a->activation, right, right));
    }
}

/* h as floats that hold values of `dtype`, one column after the other. */
VEC_INLINE void up(const wtn_epilogue_up_args_t *a, const witan_dtype_t dtype)
{
    float   *to = (float *)a->h + a->column_begin * a->rows;
    float    h[COLUMNS];
    uint16_t rounded[COLUMNS];

    for (int32_t r = 0; r < a->rows; r++) {
        up_row(a, r, h);
        if (dtype != WITAN_F32) {
            vec_store_as(dtype, rounded, vec_load(h));
            vec_store(h, vec_load_as(dtype, rounded));
            if (!a->activation->gated) {
                vec_store_as(dtype, rounded + VEC_LANES, vec_load(h + VEC_LANES));
                vec_store(h + VEC_LANES, vec_load_as(dtype, rounded + VEC_LANES));
            }
        }
        for (int32_t n = 0; n < a->column_count; n++) {
            to[n * a->rows + r] = h[n];
        }
    }
}

VEC_INLINE void down(const wtn_epilogue_down_args_t *a, const witan_dtype_t dtype)
{
    const size_t element = dtype == WITAN_F32 ? sizeof(float) : sizeof(uint16_t);

    for (int32_t r = 0; r < a->rows; r++) {
        char        *to   = (char *)a->out[r] + (size_t)a->column_begin * element;
        const float *sums = a->sums + r * COLUMNS;
        float        rest[COLUMNS];

        for (int32_t n = 0; n < COLUMNS; n += VEC_LANES) {
            vec_t y     = vec_load(sums + n);
            void *place = a->column_count == COLUMNS ? (void *)(to + (size_t)n * element)
                                                     : (void *)((char *)rest + (size_t)n * element);

            if (a->bias != NULL) {
                y = vec_add(y, vec_load(a->bias + n));
            }
            vec_store_as(dtype, place, y);
        }
        if (a->column_count < COLUMNS) {
            memcpy(to, rest, (size_t)a->column_count * element);
        }
    }
}
