#include <string.h>

#include "kernels/push/push.h"

witan_status_t wtn_push_ref(const wtn_push_args_t *args)
{
    for (int32_t p = 0; p < args->peer_count; p++) {
        char *to = (char *)args->to[p] + args->offset;

        for (int64_t i = p * args->entry_count; i < (p + 1) * args->entry_count; i++) {
            int64_t row = args->row_index == NULL ? i : args->row_index[i];

            if (args->row_expert[i * args->expert_stride] >= 0) {
                memcpy(to + (size_t)(row - p * args->entry_count) * args->row_bytes,
                       args->rows + (size_t)row * args->row_bytes, args->row_bytes);
            }
        }
    }
    return WITAN_OK;
}
