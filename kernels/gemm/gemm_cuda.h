/* Grouped GEMM on a device: rows sorted by expert times each expert's weights. One table row per
 * executor: cublas, sm_80, sm_90a.
 *
 * Every output element is one fp32 sum over ascending k, rounded once, and does not depend on how
 * many rows there are or which form computed it; cublas promises only the accuracy, as it chooses
 * its order of sums by shape. */
#ifndef WTN_GEMM_CUDA_H
#define WTN_GEMM_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/layer.h>

#include "core/util.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Columns of h that follow each other in gated up weights: 8 rows of gate, 8 rows of up, and so on.
 * One thread of an mma or wgmma accumulator then holds g and u of the same column. */
#define WTN_CUDA_INTERLEAVE 8

/* Rows are stored in multiples of this many elements, 16 bytes of bf16; the rest is zero. */
#define WTN_CUDA_ALIGN 8

/* Rows of a workspace that a product reads lie so, wherever the workspace begins: half a cache line
 * off, each 128 bytes of a row are in two lines, which cost a product of K = 4096 12% (H200). */
#define WTN_CUDA_ROWS_ALIGN 256

static inline void *wtn_cuda_carve_rows(wtn_carver_t *carver, size_t count, size_t size)
{
    const uintptr_t start = (uintptr_t)wtn_carve(carver, 1, WTN_CUDA_ROWS_ALIGN);

    (void)wtn_carve(carver, count, size);
    return (void *)((start + WTN_CUDA_ROWS_ALIGN - 1) / WTN_CUDA_ROWS_ALIGN * WTN_CUDA_ROWS_ALIGN);
}

/* One matrix per expert, fixed for an executor's life; memory of the device, 256-byte aligned. */
typedef struct wtn_cuda_weights {
    witan_dtype_t dtype;
    int32_t       expert_count; /* >= 1 */
    int64_t       N;            /* rows of an expert; any for down, a multiple of 8 for up, of 16
                                   for gated up (interleaved) */
    int64_t      K;             /* columns as stored: a multiple of WTN_CUDA_ALIGN */
    const void  *w;             /* [expert_count][N][K] */
    const float *bias;          /* [expert_count][N] in the same order, or NULL */
} wtn_cuda_weights_t;

/* One grouped product. Expert e has the sorted rows row_begin[e] .. row_begin[e + 1] - 1. Numbers
 * of rows, those in a_index and out_index too, are below UINT32_MAX for sm_90a. */
typedef struct wtn_cuda_gemm_args {
    const wtn_cuda_weights_t *weights;
    const void               *a;         /* rows of K elements, 16-byte aligned */
    int64_t                   a_stride;  /* elements, a multiple of WTN_CUDA_ALIGN */
    const int64_t            *a_index;   /* sorted row i is row a_index[i] of a; NULL: i */
    const int64_t            *row_begin; /* device [expert_count + 1], ascending from 0 */
    int64_t row_count_max; /* row_begin[expert_count] is not above it: for sizing only */
    bool    few_rows;      /* the form for few rows per expert; equal bits; pair has one form */

    /* up: h[i][j] = activation of the sums, columns from column_count to h_stride are zero */
    const witan_activation_t *activation; /* NULL: down */
    /* down: out[out_index[i]][n] = sum + bias, n < N */
    void          *out;          /* up: h [row_count_max][out_stride] of dtype */
    int64_t        out_stride;   /* elements; up: N, or N / 2 gated; down: any */
    int64_t        column_count; /* up: columns of h that exist; down: N */
    const int64_t *out_index;    /* down: output row of sorted row i; NULL: i. up: NULL */

    void     *workspace; /* workspace_bytes() of it */
    uint32_t *counters;  /* of sm_90a: [expert_count + 1], 0 when up or pair begins; of down:
                            those of its up, as that left them */
    int32_t sm_reserved;
    void   *stream;
    void (*poll)(void *context); /* called by an executor while it waits; may be NULL */
    void *poll_context;
} wtn_cuda_gemm_args_t;

typedef struct wtn_cuda_gemm {
    /* What an executor wants to keep for a pair of weights, e.g. tensor maps or a library's
     * handle; NULL: nothing. `state` goes back to all below. */
    witan_status_t (*prepare)(void **state, const wtn_cuda_weights_t *up,
                              const wtn_cuda_weights_t *down);
    void (*release)(void *state);
    /* NULL: 0 bytes. Shared by up and down. */
    size_t (*workspace_bytes)(const wtn_cuda_weights_t *up, const wtn_cuda_weights_t *down,
                              int64_t row_count_max);
    /* Queued on args->stream, down next after up with the same row_begin and counters, which it may
     * use while up still runs; neither waits nor allocates unless `waits`. */
    witan_status_t (*up)(void *state, const wtn_cuda_gemm_args_t *args);
    witan_status_t (*down)(void *state, const wtn_cuda_gemm_args_t *args);
    bool    waits;        /* up waits once for the device's row counts: not for stream capture */
    int32_t few_rows_max; /* average rows of an expert up to which few_rows is the faster form */
    /* NULL or, where takes_pair says so of the arguments of up, both in one kernel. */
    bool (*takes_pair)(void *state, const wtn_cuda_gemm_args_t *up);
    witan_status_t (*pair)(void *state, const wtn_cuda_gemm_args_t *up,
                           const wtn_cuda_gemm_args_t *down);
} wtn_cuda_gemm_t;

extern const wtn_cuda_gemm_t wtn_cuda_gemm_cublas; /* gemm_cublas_cuda.c: F32, F16, BF16 */
extern const wtn_cuda_gemm_t wtn_cuda_gemm_sm80;   /* gemm_sm80_cuda.cu: F16, BF16 */
extern const wtn_cuda_gemm_t wtn_cuda_gemm_sm90;   /* gemm_sm90_cuda.cu: F16, BF16 */

#ifdef __cplusplus
}
#endif

#endif
