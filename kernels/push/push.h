/* Rows written straight into the memory of those who wait for them. */
#ifndef WTN_PUSH_H
#define WTN_PUSH_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Entry i belongs to peer i / entry_count and goes there, if it is one: row row_index[i] of `rows`
 * becomes row row_index[i] - peer * entry_count behind to[peer] + offset. */
typedef struct wtn_push_args {
    const char    *rows;
    size_t         row_bytes;
    const int32_t *row_expert; /* entry i is one where row_expert[i * expert_stride] >= 0 */
    int32_t        expert_stride;
    const int64_t *row_index;   /* NULL: row i */
    int64_t        entry_count; /* of each peer */
    int32_t        peer_count;
    void *const   *to; /* [peers], a list in the device's memory */
    size_t         offset;
    int32_t        sm_reserved;
    void          *stream;
} wtn_push_args_t;

witan_status_t wtn_push_ref(const wtn_push_args_t *args);
witan_status_t wtn_cuda_push(const wtn_push_args_t *args);

#ifdef __cplusplus
}
#endif

#endif
