#include "launcher/staging.h"

#include <string.h>

#include "core/error.h"

witan_status_t wtn_staging_make(wtn_staging_t *staging, witan_layer_t *layer,
                                int64_t token_count_max)
{
    witan_layer_info_t info = {.struct_bytes = sizeof(info)};
    size_t             bytes;
    witan_status_t     status;

    *staging = (wtn_staging_t){.layer = layer};
    WTN_TRY(witan_layer_info(layer, &info));
    staging->row_bytes = (size_t)info.config.hidden_size * witan_dtype_bytes(info.config.dtype);
    if (strcmp(info.backend, "host") == 0) {
        return WITAN_OK;
    }
    bytes = (size_t)token_count_max * staging->row_bytes; /* fitted in ordinary memory before */
    WTN_TRY(witan_memory_alloc(layer, &staging->hidden, bytes));
    WTN_TRY(witan_memory_alloc(layer, &staging->output, bytes));

fail:
    return status;
}

void wtn_staging_free(wtn_staging_t *staging)
{
    witan_memory_free(staging->layer, staging->hidden);
    witan_memory_free(staging->layer, staging->output);
    *staging = (wtn_staging_t){0};
}

witan_status_t wtn_staging_forward(const wtn_staging_t *staging, witan_plan_t *plan,
                                   int64_t token_count, const void *hidden, void *output)
{
    bool                 copied = staging->hidden != NULL;
    size_t               bytes  = (size_t)token_count * staging->row_bytes;
    witan_forward_args_t args   = {.struct_bytes = sizeof(args),
                                   .token_count  = token_count,
                                   .hidden       = copied ? staging->hidden : hidden,
                                   .output       = copied ? staging->output : output};
    witan_status_t       status;

    if (copied) {
        WTN_TRY(witan_memory_copy(staging->layer, staging->hidden, hidden, bytes));
    }
    WTN_TRY(witan_forward(plan, &args));
    WTN_TRY(witan_plan_wait(plan));
    if (copied) {
        WTN_TRY(witan_memory_copy(staging->layer, output, staging->output, bytes));
    }

fail:
    return status;
}
