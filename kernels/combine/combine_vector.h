/* The sums of one tier, over vectors. A tier's source defines vector_t of LANES floats, load_<D>()
 * and store_<D>() for the three dtypes D, then includes this and fills its table with combine()
 * and reduce(). Elements left over go through the scalar conversions: the same bits. */
#ifndef WTN_COMBINE_VECTOR_H
#define WTN_COMBINE_VECTOR_H

#include "kernels/combine/combine.h"

#define INLINE static inline __attribute__((always_inline))
/* Vectors in flight: 8 rows deep this hides the latency of memory, and the sums stay in
 * registers. */
#define UNROLL 8
/* Bytes of a row to prefetch: one thread sums scattered bf16 rows 20% faster than with none. */
#define AHEAD 512

INLINE vector_t load(const void *array, witan_dtype_t dtype, int64_t index)
{
    switch (dtype) {
    case WITAN_F16:
        return load_f16((const uint16_t *)array + index);
    case WITAN_BF16:
        return load_bf16((const uint16_t *)array + index);
    case WITAN_F32:
    default:
        return load_f32((const float *)array + index);
    }
}

/* Rows lie anywhere: ask for the bytes AHEAD before the processor has seen the pattern. Past the
 * end of an array this does nothing. */
INLINE void prefetch(const void *array, witan_dtype_t dtype, int64_t index)
{
    const uintptr_t size = dtype == WITAN_F32 ? 4 : 2;

    __builtin_prefetch((const void *)((uintptr_t)array + (uintptr_t)index * size + AHEAD));
}

INLINE void store(void *array, witan_dtype_t dtype, int64_t index, vector_t value)
{
    switch (dtype) {
    case WITAN_F16:
        store_f16((uint16_t *)array + index, value);
        break;
    case WITAN_BF16:
        store_bf16((uint16_t *)array + index, value);
        break;
    case WITAN_F32:
    default:
        store_f32((float *)array + index, value);
        break;
    }
}

/* `count` vectors of token t from column h on; dtypes and count are constants of the caller. */
INLINE void combine_vectors(const wtn_combine_args_t *args, witan_dtype_t dtype,
                            witan_dtype_t out_dtype, int64_t t, int64_t h, int count)
{
    const int64_t H     = args->hidden_size;
    const float   scale = args->shared != NULL && args->shared_logit != NULL
                              ? wtn_combine_sigmoid(args->shared_logit[t])
                              : 1.0f;
    vector_t      acc[UNROLL];

#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
        acc[v] = (vector_t){0};
        if (args->shared != NULL) {
            acc[v] = load(args->shared, dtype, t * H + h + v * LANES) * scale;
        }
    }
    for (int32_t k = 0; k < args->slot_count; k++) {
        const int64_t slot = t * args->slot_count + k;
        const int64_t row  = args->row_index[slot];
        float         w;

        if (row < 0) {
            continue;
        }
        w = args->weights != NULL ? args->weights[slot] : 1.0f;
#pragma GCC unroll 8
        for (int v = 0; v < count; v++) {
            prefetch(args->rows, dtype, row * H + h + v * LANES);
            acc[v] += load(args->rows, dtype, row * H + h + v * LANES) * w;
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
        store(args->out, out_dtype, t * H + h + v * LANES, acc[v]);
    }
}

INLINE void combine_columns(const wtn_combine_args_t *args, witan_dtype_t dtype,
                            witan_dtype_t out_dtype, int64_t t, int64_t begin, int64_t end)
{
    int64_t h = begin;

    for (; end - h >= UNROLL * LANES; h += UNROLL * LANES) {
        combine_vectors(args, dtype, out_dtype, t, h, UNROLL);
    }
    for (; end - h >= LANES; h += LANES) {
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

    for (; args->part_count > 0 && end - i >= LANES; i += LANES) {
        vector_t acc = load_f32(args->parts[0] + i);

        for (int32_t p = 1; p < args->part_count; p++) {
            acc += load_f32(args->parts[p] + i);
        }
        store(args->out, out_dtype, i, acc);
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
