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
    const size_t element         = dtype == WITAN_F32 ? sizeof(float) : sizeof(uint16_t);
    const char  *from            = (const char *)row + (size_t)at * element;
    float        rest[VEC_LANES] = {0};

    if (at + VEC_LANES > words) {
        memcpy(rest, from, (size_t)(words - at) * element);
        from = (const char *)rest;
    }
    return vec_load_as(dtype, from);
}

/* How far ahead packing fetches: columns of rows, and the places they go to. */
#define PACK_AHEAD (8 * VEC_LANES)

/* Pack words 0..words-1 of `count` rows as packed [words][count], a cache line of every row at a
 * time: rows 4 KiB apart share one set of the first-level cache and drive each other out. Most of
 * it waited for lines of `packed`, which are fetched before they are written. */
VEC_INLINE void pack_words(int32_t count, int64_t words, const void *const *rows,
                           const witan_dtype_t dtype, float *packed)
{
    enum { BLOCKS_MAX = WTN_CACHE_LINE_BYTES / (VEC_LANES * sizeof(uint16_t)) };
    const size_t element = dtype == WITAN_F32 ? sizeof(float) : sizeof(uint16_t);
    const int    blocks  = dtype == WITAN_F32 ? BLOCKS_MAX / 2 : BLOCKS_MAX;
    vec_t        block[BLOCKS_MAX][VEC_LANES];

    for (int b = 0; b < blocks; b++) {
        vec_clear(block[b]);
    }
    for (int64_t at = 0; at < words; at += blocks * VEC_LANES) {
        const int full = (int)wtn_min_i64(blocks, wtn_ceil_div(words - at, VEC_LANES));

        for (int32_t r = 0; r < count; r++) {
            for (int b = 0; b < full; b++) {
                const int64_t from = at + b * VEC_LANES;

                __builtin_prefetch((const char *)rows[r] + (size_t)(from + PACK_AHEAD) * element);
                __builtin_prefetch(packed + (from + PACK_AHEAD) * count + r * VEC_LANES, 1);
                block[b][r] = load_words(rows[r], from, words, dtype);
            }
        }
        for (int b = 0; b < full; b++) {
            int64_t begin = at + b * VEC_LANES;

            vec_store_transposed(packed + begin * count, block[b], count,
                                 (int)wtn_min_i64(VEC_LANES, words - begin));
        }
    }
}

#endif
