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

struct wtn_ffn {
    wtn_ffn_spec_t  spec; /* experts is not kept */
    wtn_ffn_shape_t shape;
    void           *memory;    /* all of the below */
    char           *up;        /* [experts][up_panels] packed panels; gated: half gate, half up */
    char           *down;      /* [experts][down_panels] */
    float          *up_bias;   /* [experts][up_panels][panel_columns], or NULL */
    float          *down_bias; /* [experts][down_panels][panel_columns], or NULL */
};

wtn_ffn_shape_t wtn_ffn_shape(const wtn_ffn_spec_t *spec);

#endif
