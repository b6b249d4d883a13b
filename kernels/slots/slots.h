/* Small integer work of a step on a device: ids of a caller checked, places in padded slots. */
#ifndef WTN_SLOTS_H
#define WTN_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ids [count] copied; those that are neither -1 nor an expert become -1 and are counted. */
typedef struct wtn_ids_args {
    const int32_t *ids;
    int64_t        count;
    int32_t        expert_count;
    int32_t       *out;
    uint32_t      *bad_count; /* set */
    void          *stream;
} wtn_ids_args_t;

witan_status_t wtn_ids_ref(const wtn_ids_args_t *args);
witan_status_t wtn_cuda_ids(const wtn_ids_args_t *args);

/* Where the rows of a padded exchange come back: the places of a schedule, which count returned
 * rows without gaps, become places in slots. Row i of pair p in round r comes back at
 * (r * peer_count + p) * slot_count + i. */
typedef struct wtn_slots_args {
    int64_t       *index; /* [count] in and out; -1 stays */
    int64_t        count;
    int32_t        peer_count;
    int64_t        slot_count; /* per pair and round */
    const int64_t *pair_begin; /* [peers + 1] places of the pairs */
    /* [peers, round_count + 1] places of a pair before each round; NULL: slot_count in each */
    const int64_t *round_begin;
    int32_t        round_count;
    void          *stream;
} wtn_slots_args_t;

witan_status_t wtn_slots_ref(const wtn_slots_args_t *args);
witan_status_t wtn_cuda_slots(const wtn_slots_args_t *args);

#ifdef __cplusplus
}
#endif

#endif
