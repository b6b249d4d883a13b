#include <string.h>

#include "core/util.h"
#include "kernels/gather/gather.h"

/* Below this the work is over before a second thread has started. */
#define PARALLEL_BYTES ((size_t)256 << 10)

witan_status_t wtn_host_gather(const wtn_gather_args_t *a)
{
    const int32_t threads = a->thread_count < 1 ? 1 : a->thread_count;
    const bool    large   = (size_t)a->row_count * a->row_bytes >= PARALLEL_BYTES;

#pragma omp parallel for schedule(static) num_threads(threads) if (large)
    for (int64_t i = 0; i < a->row_count; i++) {
        memcpy((char *)a->out + (size_t)i * a->row_bytes,
               (const char *)a->x + (size_t)a->index[i] * a->row_bytes, a->row_bytes);
    }
    return WITAN_OK;
}
