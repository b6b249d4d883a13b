#include "kernels/gather/gather.h"

void wtn_gather_ref(const wtn_gather_args_t *a)
{
    for (int64_t i = 0; i < a->row_count; i++) {
        for (size_t b = 0; b < a->row_bytes; b++) {
            ((char *)a->out)[(size_t)i * a->row_bytes + b] =
                ((const char *)a->x)[(size_t)a->index[i] * a->row_bytes + b];
        }
    }
}
