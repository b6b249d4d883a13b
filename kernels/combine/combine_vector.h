/* The sums of one tier, over the words of kernels/vector.h (or the same words defined by the file
 * that includes this, which fills its table with combine() and reduce()). Elements left over go
 * through the scalar conversions: the same bits. */
#ifndef WTN_COMBINE_VECTOR_H
#define WTN_COMBINE_VECTOR_H

#include "kernels/combine/combine.h"

#define INLINE static inline __attribute__((always_inline))
/* Vectors in flight: 8 rows deep this hides the latency of memory, and the sums stay in
 * registers. */
#define UNROLL 8

/* Element `index` of an array. */
INLINE void *at(const void *array, witan_dtype_t dtype, int64_t index)
{
    return (void *)((uintptr_t)array + (uintptr_t)index * (dtype == WITAN_F32 ? 4 : 2));
}

/* The row in the same slot of the next token, to be fetched ahead; `row` where there is none. */
INLINE int64_t row_ahead(const wtn_combine_args_t *args, int64_t slot, int64_t row)
{
    const int64_t next = slot + args->slot_count;

    if (next >= args->token_count * args->slot_count || args->row_index[next] < 0) {
        return row;
    }
    return args->row_index[next];
}

/* `count` vectors of token t from column h on; dtypes and count are constants of the caller. */
INLINE void combine_vectors(const wtn_combine_args_t *args, witan_dtype_t dtype,
                            witan_dtype_t out_dtype, int64_t t, int64_t h, int count)
{
    const int64_t H     = args->hidden_size;
    const float   scale = args->shared != NULL && args->shared_logit != NULL
                              ? wtn_plain_sigmoid(args->shared_logit[t])
                              : 1.0f;
    vec_t         acc[UNROLL];

#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
        acc[v] = (vec_t){0};
        if (args->shared != NULL) {
            acc[v] = vec_load_as(dtype, at(args->shared, dtype, t * H + h + v * VEC_LANES)) * scale;
        }
    }
    for (int32_t k = 0; k < args->slot_count; k++) {
        const int64_t slot = t * args->slot_count + k;
        const int64_t row  = args->row_index[slot];
        int64_t       ahead;
        float         w;

        if (row < 0) {
            continue;
        }
        ahead = row_ahead(args, slot, row);
        w     = args->weights != NULL ? args->weights[slot] : 1.0f;
#pragma GCC unroll 8
        for (int v = 0; v < count; v++) {
            const int64_t column = h + v * VEC_LANES;

            __builtin_prefetch(at(args->rows, dtype, ahead * H + column));
            acc[v] += vec_load_as(dtype, at(args->rows, dtype, row * H + column)) * w;
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
        vec_store_as(out_dtype, at(args->out, out_dtype, t * H + h + v * VEC_LANES), acc[v]);
    }
}

INLINE void combine_columns(const wtn_combine_args_t *args, witan_dtype_t dtype,
                            witan_dtype_t out_dtype, int64_t t, int64_t begin, int64_t end)
{
    int64_t h = begin;

    for (; end - h >= UNROLL * VEC_LANES; h += UNROLL * VEC_LANES) {
        combine_vectors(args, dtype, out_dtype, t, h, UNROLL);
    }
    for (; end - h >= VEC_LANES; h += VEC_LANES) {
        combine_vectors(args, dtype, out_dtype, t, h, 1);
    }
    for (; h < end; h++) {
        wtn_store_float(args->out, out_dtype, (size_t)(t * args->hidden_size + h),
                        wtn_combine_element(args, t, h));
    }
}

static void combine(const wtn_combine_args_t *args, int64_t t, int64_t begin, int64_t end)
{
    const bool f32 = args->out_dtype == WITAN_F32;

    switch (args->dtype) {
    case WITAN_F16:
        if (f32) {
            combine_columns(args, WITAN_F16, WITAN_F32, t, begin, end);
        } else {
            combine_columns(args, WITAN_F16, WITAN_F16, t, begin, end);
        }
        break;
    case WITAN_BF16:
        if (f32) {
            combine_columns(args, WITAN_BF16, WITAN_F32, t, begin, end);
        } else {
            combine_columns(args, WITAN_BF16, WITAN_BF16, t, begin, end);
        }
        break;
    case WITAN_F32:
    default:
        combine_columns(args, WITAN_F32, WITAN_F32, t, begin, end);
        break;
    }
}

INLINE void reduce_elements(const wtn_reduce_args_t *args, witan_dtype_t out_dtype, int64_t begin,
                            int64_t end)
{
    int64_t i = begin;

    for (; args->part_count > 0 && end - i >= VEC_LANES; i += VEC_LANES) {
        vec_t acc = vec_load_as(WITAN_F32, args->parts[0] + i);

        for (int32_t p = 1; p < args->part_count; p++) {
            acc += vec_load_as(WITAN_F32, args->parts[p] + i);
        }
        vec_store_as(out_dtype, at(args->out, out_dtype, i), acc);
    }
    for (; i < end; i++) {
        wtn_store_float(args->out, out_dtype, (size_t)i, wtn_reduce_element(args, i));
    }
}

static void reduce(const wtn_reduce_args_t *args, int64_t begin, int64_t end)
{
    switch (args->out_dtype) {
    case WITAN_F16:
        reduce_elements(args, WITAN_F16, begin, end);
        break;
    case WITAN_BF16:
        reduce_elements(args, WITAN_BF16, begin, end);
        break;
    case WITAN_F32:
    default:
        reduce_elements(args, WITAN_F32, begin, end);
        break;
    }
}

#endif
