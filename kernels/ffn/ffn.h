/* Experts on the host: what a tile's sums become, and the expert network as a whole. */
#ifndef WTN_FFN_H
#define WTN_FFN_H

#include "kernels/backend.h"
#include "kernels/gemm/gemm.h"

/* After the up GEMM: bias, activation, rounding to dtype, and the packed rows of the down GEMM. */
typedef struct wtn_epilogue_up_args {
    const witan_activation_t *activation;
    const float              *sums; /* [rows][panel_columns]; gated: gate half, up half */
    const float              *bias; /* [panel_columns] in the same order, or NULL */
    int32_t                   rows;
    int32_t                   column_count; /* columns of h in this panel that exist */
    int64_t                   column_begin; /* a multiple of depth */
    void                     *h;            /* packed rows: [groups][rows][depth] */
} wtn_epilogue_up_args_t;

/* After the down GEMM: bias and rounding to dtype, into rows of the output. */
typedef struct wtn_epilogue_down_args {
    const float *sums; /* [rows][panel_columns] */
    const float *bias; /* [panel_columns] or NULL */
    int32_t      rows;
    int32_t      column_count;
    int64_t      column_begin;
    void *const *out; /* [rows] where the output rows start */
} wtn_epilogue_down_args_t;

typedef struct wtn_ffn_epilogue {
    void (*up)(const wtn_epilogue_up_args_t *args);
    void (*down)(const wtn_epilogue_down_args_t *args);
} wtn_ffn_epilogue_t;

/* kernels/ffn/ffn_epilogue_<tier>.c, by witan_dtype_t; avx512_bf16 has BF16 only. */
extern const wtn_ffn_epilogue_t wtn_ffn_epilogue_ref[], wtn_ffn_epilogue_avx2[];
extern const wtn_ffn_epilogue_t wtn_ffn_epilogue_avx512[];
extern const wtn_ffn_epilogue_t wtn_ffn_epilogue_avx512_bf16;

/* WITAN_E_ARGUMENT naming what makes no sense. */
witan_status_t wtn_ffn_spec_check(const wtn_ffn_spec_t *spec);

/* The slots of wtn_backend_host. */
witan_status_t wtn_host_ffn_create(wtn_ffn_t **out, const wtn_ffn_spec_t *spec,
                                   const witan_weights_t *weights);
void           wtn_host_ffn_destroy(wtn_ffn_t *ffn);
size_t         wtn_host_ffn_weight_bytes(const wtn_ffn_spec_t *spec);
size_t         wtn_host_ffn_expert_bytes(const wtn_ffn_spec_t *spec);
witan_status_t wtn_host_ffn_reserve(wtn_ffn_t *ffn, int32_t spare_count);
void           wtn_host_ffn_release(wtn_ffn_t *ffn);
void          *wtn_host_ffn_weights(wtn_ffn_t *ffn, int32_t index);
void           wtn_host_ffn_exchange(wtn_ffn_t *ffn, int32_t a, int32_t b);
size_t         wtn_host_ffn_workspace_bytes(const wtn_ffn_spec_t *spec, int64_t row_count_max,
                                            int32_t masked_rows_max, int32_t thread_count);
witan_status_t wtn_host_ffn_run(const wtn_ffn_t *ffn, wtn_ffn_args_t *args);

/* The reference: one expert, one row, from weights as they are stored; scalar, in the order of the
 * mathematics. Biases may be NULL. h [I] is scratch. */
typedef struct wtn_ffn_ref_args {
    int64_t                   H, I;
    witan_dtype_t             dtype;
    const witan_activation_t *activation;
    const void               *gate, *up;           /* [I, H]; gate NULL where not gated */
    const void               *down;                /* [H, I] */
    const float              *gate_bias, *up_bias; /* [I] */
    const float              *down_bias;           /* [H] */
    const void               *x;                   /* [H] */
    void                     *h;                   /* [I] dtype */
    void                     *out;                 /* [H] dtype */
} wtn_ffn_ref_args_t;

void wtn_ffn_ref(const wtn_ffn_ref_args_t *args);

#endif
