#include <string.h>

#include "kernels/gemm/gemm.h"

/* Groups packed at a time: their columns stay in the first-level cache. */
#define PACK_GROUPS 64

void wtn_gemm_pack_columns(const wtn_gemm_t *gemm, const void *weights, int64_t count, int64_t K,
                           int32_t column, void *panel)
{
    size_t  element     = witan_dtype_bytes(gemm->dtype);
    size_t  group_bytes = (size_t)gemm->panel_columns * (size_t)gemm->depth * element;
    int64_t whole       = K / gemm->depth;
    int64_t rest        = K % gemm->depth;
    size_t  word        = (size_t)gemm->depth * element; /* 2 or 4 bytes */
    char   *to          = (char *)panel + (size_t)column * word;

    for (int64_t begin = 0; begin < whole; begin += PACK_GROUPS) {
        int64_t end = wtn_min_i64(begin + PACK_GROUPS, whole);

        for (int64_t n = 0; n < count; n++) {
            const char *row = (const char *)weights + (size_t)(n * K) * element;

            for (int64_t g = begin; g < end; g++) {
                char       *out = to + (size_t)g * group_bytes + (size_t)n * word;
                const char *in  = row + (size_t)g * word;

                if (word == sizeof(uint32_t)) {
                    memcpy(out, in, sizeof(uint32_t));
                } else {
                    memcpy(out, in, sizeof(uint16_t));
                }
            }
        }
    }
    for (int64_t n = 0; n < count && rest > 0; n++) {
        memcpy(to + (size_t)whole * group_bytes + (size_t)n * word,
               (const char *)weights + (size_t)(n * K + K - rest) * element,
               (size_t)rest * element);
    }
}
