/* What happens to lists of rows around the products of ffn_cuda.c. Memory of the device. */
#ifndef WTN_FFN_ROWS_CUDA_H
#define WTN_FFN_ROWS_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#include "kernels/sort/sort.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of x at a stride of `from_bytes` become rows of out of `to_bytes`, a multiple of 16, with
 * zeros behind; element sizes 2 or 4. */
typedef struct wtn_cuda_pad_args {
    const void    *x;
    const int64_t *index;     /* [row_count_max] rows of x; NULL: row i */
    const int64_t *row_count; /* on the device: there are so many */
    int64_t        row_count_max;
    size_t         from_bytes, to_bytes;
    void          *out;
    int32_t        sm_reserved;
    void          *stream;
} wtn_cuda_pad_args_t;

witan_status_t wtn_cuda_pad_rows(const wtn_cuda_pad_args_t *args);

/* What wtn_cuda_sort does to row_begin, row_counts and counters where all rows are of expert 0. */
witan_status_t wtn_cuda_first_expert(const wtn_sort_args_t *sort);

#ifdef __cplusplus
}
#endif

#endif
