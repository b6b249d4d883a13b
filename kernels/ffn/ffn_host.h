/* The host's expert networks in memory; private to kernels/ffn/. */
#ifndef WTN_FFN_HOST_H
#define WTN_FFN_HOST_H

#include "kernels/ffn/ffn.h"

/* Where things are in one expert's packed weights. */
typedef struct wtn_ffn_shape {
    const wtn_gemm_t         *gemm;
    const wtn_ffn_epilogue_t *epilogue;
    int64_t                   H, I;       /* I: width of the slice held */
    int32_t                   up_columns; /* columns of h in a panel */
    int64_t                   up_panels, down_panels;
    size_t                    up_panel_bytes, down_panel_bytes;
    size_t                    x_row_bytes, h_row_bytes; /* packed */
} wtn_ffn_shape_t;

/* The packed weights of one expert: a run of expert_bytes from `up` on. */
typedef struct wtn_ffn_weights {
    char  *up;        /* [up_panels] packed panels; gated: half gate, half up */
    char  *down;      /* [down_panels] */
    float *up_bias;   /* [up_panels][panel_columns], or NULL */
    float *down_bias; /* [down_panels][panel_columns], or NULL */
    bool   own;       /* allocated by itself, not a part of wtn_ffn_t.memory */
} wtn_ffn_weights_t;

struct wtn_ffn {
    wtn_ffn_spec_t     spec; /* experts is not kept */
    wtn_ffn_shape_t    shape;
    size_t             expert_bytes;
    char              *memory;       /* [spec.expert_count] runs of weights, as created */
    int32_t            weight_count; /* spec.expert_count, and spare ones behind them */
    wtn_ffn_weights_t *weights;      /* [weight_count] in `memory` or allocated by themselves */
};

wtn_ffn_shape_t wtn_ffn_shape(const wtn_ffn_spec_t *spec);

#endif
