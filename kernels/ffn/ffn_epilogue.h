/* Template: the epilogues on vectors, for panels of two vectors. */

#include <string.h>

#include "core/half.h"
#include "kernels/activation/activation_vector.h"
#include "kernels/ffn/ffn.h"

#define COLUMNS (2 * VEC_LANES)

/* The columns of h from column `half` * VEC_LANES of the sums on, of one row; gated: the only ones.
 */
VEC_INLINE vec_t up_vector(const wtn_epilogue_up_args_t *a, int32_t row, int32_t half)
{
    const float *sums = a->sums + row * COLUMNS;
    vec_t        g    = vec_load(sums + half * VEC_LANES);
    vec_t        u    = vec_load(sums + VEC_LANES);

    if (a->bias != NULL) {
        g = vec_add(g, vec_load(a->bias + half * VEC_LANES));
        u = vec_add(u, vec_load(a->bias + VEC_LANES));
    }
    return vec_activate_gated(a->activation, g, a->activation->gated ? u : g);
}

/* h as floats that hold values of `dtype`, one column after the other. */
VEC_INLINE void up(const wtn_epilogue_up_args_t *a, const witan_dtype_t dtype)
{
    float *to = (float *)a->h + a->column_begin * a->rows;
    vec_t  h[VEC_LANES];

    vec_clear(h);
    for (int32_t half = 0; half * VEC_LANES < a->column_count; half++) {
        for (int32_t r = 0; r < a->rows; r++) {
            h[r] = vec_round_as(dtype, up_vector(a, r, half));
        }
        vec_store_transposed(to + half * VEC_LANES * a->rows, h, a->rows,
                             (int)wtn_min_i64(VEC_LANES, a->column_count - half * VEC_LANES));
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
