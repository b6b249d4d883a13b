/* Tiles: a few packed rows times one packed panel of weights, summed in fp32.
 *
 * A weight matrix [N, K] is held as panels of `panel_columns` rows of it: [panels][groups][columns]
 * [depth], where a group is `depth` consecutive k. Up to `tile_rows` rows of x are held as
 * [groups][rows][depth]. Both are padded with zeros to whole groups, panels to whole columns too.
 * One tile sums the whole of K in one loop, k ascending: an element's bits depend on its row of x
 * and its row of weights alone. */
#ifndef WTN_GEMM_H
#define WTN_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/types.h>

#include "core/util.h"

#define WTN_TILE_ROWS_MAX     12
#define WTN_PANEL_COLUMNS_MAX 32

/* Largest N and K: with them no size of a panel or a row overflows. */
#define WTN_GEMM_SIZE_MAX ((int64_t)1 << 31)

typedef struct wtn_tile_args {
    int32_t     rows;        /* 1..tile_rows */
    bool        narrow;      /* only the first half of the columns is wanted */
    int64_t     group_count; /* may be 0 */
    const void *x;           /* [group_count][rows][depth] */
    const void *panel;       /* [group_count][panel_columns][depth] */
    float      *sums;        /* out [rows][panel_columns], 64-byte aligned */
    /* Fetched ahead into the cache, `prefetch_step` bytes per group: the panel computed next. */
    const char *prefetch;
    int64_t     prefetch_step;
} wtn_tile_args_t;

typedef struct wtn_gemm {
    witan_dtype_t dtype; /* of the weights in memory */
    int32_t       panel_columns;
    int32_t       depth;
    int32_t       tile_rows;
    witan_dtype_t row_dtype; /* of packed rows: F32, or BF16 where depth is 2 */

    void (*tile)(const wtn_tile_args_t *args);

    /* Pack `count` rows of K elements of `dtype`, converting to row_dtype. */
    void (*pack_rows)(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed);
} wtn_gemm_t;

/* kernels/gemm/gemm_<tier>.c, by witan_dtype_t; avx512_bf16 has BF16 only. */
extern const wtn_gemm_t wtn_gemm_ref[], wtn_gemm_avx2[], wtn_gemm_avx512[];
extern const wtn_gemm_t wtn_gemm_avx512_bf16;

static inline int64_t wtn_gemm_groups(const wtn_gemm_t *gemm, int64_t K)
{
    return wtn_ceil_div(K, gemm->depth);
}

/* Bytes of one packed row, of one packed panel. */
static inline size_t wtn_gemm_row_bytes(const wtn_gemm_t *gemm, int64_t K)
{
    return (size_t)(wtn_gemm_groups(gemm, K) * gemm->depth) * witan_dtype_bytes(gemm->row_dtype);
}

static inline size_t wtn_gemm_panel_bytes(const wtn_gemm_t *gemm, int64_t K)
{
    return (size_t)(wtn_gemm_groups(gemm, K) * gemm->depth) * (size_t)gemm->panel_columns *
           witan_dtype_bytes(gemm->dtype);
}

/* Pack `count` rows of weights [count, K] as columns column.. of one panel. Padding columns and
 * the padding of the last group must have been cleared before. */
void wtn_gemm_pack_columns(const wtn_gemm_t *gemm, const void *weights, int64_t count, int64_t K,
                           int32_t column, void *panel);

#endif
