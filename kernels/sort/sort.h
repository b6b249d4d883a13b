/* Rows made expert-major: a stable sort of a list of expert indices. Whole numbers only; the result
 * is the only one there is, however many threads made it. */
#ifndef WTN_SORT_H
#define WTN_SORT_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Expert e has the sorted places row_begin[e] .. row_begin[e + 1]; row_begin[E] rows have an
 * expert, and the places from there on are not written. */
typedef struct wtn_sort_args {
    const int32_t *row_expert; /* [row_count]; not in 0..E-1 (-1): no expert */
    int64_t        row_count;  /* < 2^32 */
    int32_t        expert_count;
    /* Optional, to be carried along; NULL: row i. */
    const int64_t *row_in, *row_out; /* [row_count] */
    /* out; any of the lists may be NULL */
    int64_t *row_begin;  /* [E + 1] */
    int64_t *row_counts; /* [E] */
    int64_t *order;      /* [row_count] which row is at a place, ascending in an expert */
    int64_t *sorted_in;  /* [row_count] row_in[order[.]] */
    int64_t *sorted_out; /* [row_count] row_out[order[.]] */
    /* Set to 0 on the way, with row_begin: what the kernels that follow count in. */
    uint32_t *counters;  /* [E + 1] */
    void     *workspace; /* not needed by the reference */
    size_t    workspace_bytes;
    void     *stream;
} wtn_sort_args_t;

size_t wtn_sort_workspace_bytes(int64_t row_count_max, int32_t expert_count);

/* The reference: host memory. */
witan_status_t wtn_sort_ref(const wtn_sort_args_t *args);
/* Memory of the device. WITAN_E_ARGUMENT: too many rows, or the workspace is too small. */
witan_status_t wtn_cuda_sort(const wtn_sort_args_t *args);

#ifdef __cplusplus
}
#endif

#endif
