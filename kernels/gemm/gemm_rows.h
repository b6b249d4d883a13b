/* Rows to packed rows on vectors: squares of 32-bit words, each a float or a pair of bf16. Include
 * only from files compiled for a tier. */
#ifndef WTN_GEMM_ROWS_H
#define WTN_GEMM_ROWS_H

#include <string.h>

#include "kernels/gemm/gemm.h"
#include "kernels/vector.h"

/* VEC_LANES words from `at` on of a row of `words` words; `dtype` is converted to floats, but pairs
 * of BF16 (F32: words) stay as they are. Past the end words are zero. */
VEC_INLINE vec_t load_words(const void *row, int64_t at, int64_t words, witan_dtype_t dtype)
{
    const size_t element         = witan_dtype_bytes(dtype);
    const char  *from            = (const char *)row + (size_t)at * element;
    float        rest[VEC_LANES] = {0};

    if (at + VEC_LANES > words) {
        memcpy(rest, from, (size_t)(words - at) * element);
        from = (const char *)rest;
    }
    return vec_load_as(dtype, from);
}

/* Pack words 0..words-1 of `count` rows as packed [words][count]. */
VEC_INLINE void pack_words(int32_t count, int64_t words, const void *const *rows,
                           witan_dtype_t dtype, float *packed)
{
    vec_t block[VEC_LANES];

    vec_clear(block);
    for (int64_t at = 0; at < words; at += VEC_LANES) {
        for (int32_t r = 0; r < count; r++) {
            block[r] = load_words(rows[r], at, words, dtype);
        }
        vec_store_transposed(packed + at * count, block, count,
                             (int)wtn_min_i64(VEC_LANES, words - at));
    }
}

#endif
