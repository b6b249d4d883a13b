/* Inside the reader of model folders: where every matrix of the block lies. */
#ifndef WTN_HF_SOURCE_H
#define WTN_HF_SOURCE_H

#include "experts/config.h"
#include "experts/files.h"
#include "experts/hf.h"

typedef struct wtn_source {
    wtn_place_t values;
    wtn_place_t scales; /* FP8 and MXFP4; else its tensor is NULL */
} wtn_source_t;

struct wtn_hf {
    wtn_config_t        config;
    int32_t             layer_index;
    const wtn_layout_t *layout;
    wtn_files_t        *files;
    char               *config_path;
    uint64_t            config_hash;
    /* [weight][expert], or [weight][0] for what is not per expert or holds all experts. */
    wtn_source_t *sources[WITAN_WEIGHT_COUNT];
    int64_t       bytes_read;
    void         *scratch; /* made by the first read that converts */
};

/* True if every expert has a tensor of its own. */
bool wtn_hf_is_per_tensor(const wtn_hf_t *hf, witan_weight_t weight);

/* The plain dtype of a tensor. False for FP8, MXFP4 and all that holds no weights. */
bool wtn_hf_plain_dtype(wtn_st_dtype_t stored, witan_dtype_t *dtype);

/* witan_weights_t.read */
witan_status_t wtn_hf_read(void *context, const witan_weight_slice_t *slice, void *out);

#endif
