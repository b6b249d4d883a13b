/* The slots of each rank, for any order of slots. */
#ifndef WTN_SLOTS_BY_RANK_H
#define WTN_SLOTS_BY_RANK_H

#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_slots_by_rank {
    int32_t *begin; /* [D + 1] slots of rank r: slot[begin[r]] to slot[begin[r + 1] - 1] */
    int32_t *slot;  /* [slot_count] ascending within a rank */
} wtn_slots_by_rank_t;

/* owner[slot_count] within 0..rank_count-1. WITAN_E_MEMORY. */
witan_status_t wtn_slots_by_rank_make(wtn_slots_by_rank_t *ranks, const int32_t *owner,
                                      int32_t slot_count, int32_t rank_count);
void           wtn_slots_by_rank_free(wtn_slots_by_rank_t *ranks);

#endif
