#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "launcher/tokens.h"

wtn_st_dtype_t wtn_tokens_dtype(witan_dtype_t dtype)
{
    switch (dtype) {
    case WITAN_F16:
        return WTN_ST_F16;
    case WITAN_BF16:
        return WTN_ST_BF16;
    case WITAN_F32:
    default:
        return WTN_ST_F32;
    }
}

static witan_status_t check(const wtn_tokens_t *tokens, const char *path,
                            const witan_layer_config_t *layer)
{
    const wtn_st_tensor_t *tensor = tokens->tensor;

    if (tensor == NULL) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected a tensor " WTN_TOKENS_TENSOR ", found none",
                         path);
    }
    if (tensor->rank != 2) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: " WTN_TOKENS_TENSOR ": expected 2 dimensions [tokens, %" PRId64
                         "], found %" PRId32,
                         path, layer->hidden_size, tensor->rank);
    }
    if (tensor->shape[1] != layer->hidden_size) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: " WTN_TOKENS_TENSOR ": expected width %" PRId64
                         " (the layer's hidden size), found %" PRId64,
                         path, layer->hidden_size, tensor->shape[1]);
    }
    if (tensor->dtype != wtn_tokens_dtype(layer->dtype)) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: " WTN_TOKENS_TENSOR ": expected dtype %s (the layer's), found %s",
                         path, witan_dtype_name(layer->dtype), wtn_st_dtype_name(tensor->dtype));
    }
    return WITAN_OK;
}

witan_status_t wtn_tokens_open(wtn_tokens_t *tokens, const char *path,
                               const witan_layer_config_t *layer)
{
    witan_status_t status;

    memset(tokens, 0, sizeof(*tokens));
    WTN_TRY(wtn_st_open(&tokens->file, path));
    tokens->tensor = wtn_st_find(tokens->file, WTN_TOKENS_TENSOR);
    WTN_TRY(check(tokens, path, layer));
    tokens->count     = tokens->tensor->shape[0];
    tokens->row_bytes = (size_t)layer->hidden_size * witan_dtype_bytes(layer->dtype);
    return WITAN_OK;

fail:
    wtn_tokens_close(tokens);
    return status;
}

void wtn_tokens_close(wtn_tokens_t *tokens)
{
    wtn_st_close(tokens->file);
    memset(tokens, 0, sizeof(*tokens));
}

witan_status_t wtn_tokens_read(const wtn_tokens_t *tokens, int64_t begin, int64_t count, void *out)
{
    return wtn_st_read(tokens->file, tokens->tensor, (uint64_t)begin * tokens->row_bytes,
                       (size_t)count * tokens->row_bytes, out);
}
