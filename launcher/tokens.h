/* The input of a layer as a file: a safetensors tensor `hidden_states` [tokens, H]. */
#ifndef WTN_TOKENS_H
#define WTN_TOKENS_H

#include <witan/layer.h>

#include "experts/safetensors.h"

#define WTN_TOKENS_TENSOR "hidden_states"

typedef struct wtn_tokens {
    wtn_st_file_t         *file;
    const wtn_st_tensor_t *tensor;
    int64_t                count;
    size_t                 row_bytes;
} wtn_tokens_t;

/* Open and check against the layer's H and dtype. WITAN_E_IO, WITAN_E_FORMAT, WITAN_E_CONFIG
 * naming file and tensor, expected and found. */
witan_status_t wtn_tokens_open(wtn_tokens_t *tokens, const char *path,
                               const witan_layer_config_t *layer);
void           wtn_tokens_close(wtn_tokens_t *tokens);

/* Read rows [begin, begin + count). */
witan_status_t wtn_tokens_read(const wtn_tokens_t *tokens, int64_t begin, int64_t count, void *out);

wtn_st_dtype_t wtn_tokens_dtype(witan_dtype_t dtype);

#endif
