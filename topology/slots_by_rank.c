#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "topology/slots_by_rank.h"

witan_status_t wtn_slots_by_rank_make(wtn_slots_by_rank_t *ranks, const int32_t *owner,
                                      int32_t slot_count, int32_t rank_count)
{
    /* While filling, begin[r + 1] is where the next slot of r goes. */
    ranks->begin = calloc((size_t)rank_count + 2, sizeof(*ranks->begin));
    ranks->slot  = calloc((size_t)slot_count + 1, sizeof(*ranks->slot));
    if (ranks->begin == NULL || ranks->slot == NULL) {
        wtn_slots_by_rank_free(ranks);
        return WTN_ERROR(WITAN_E_MEMORY, "placement: %" PRId32 " slots", slot_count);
    }
    for (int32_t s = 0; s < slot_count; s++) {
        ranks->begin[owner[s] + 2]++;
    }
    for (int32_t r = 0; r < rank_count; r++) {
        ranks->begin[r + 2] += ranks->begin[r + 1];
    }
    for (int32_t s = 0; s < slot_count; s++) {
        ranks->slot[ranks->begin[owner[s] + 1]++] = s;
    }
    return WITAN_OK;
}

void wtn_slots_by_rank_free(wtn_slots_by_rank_t *ranks)
{
    free(ranks->begin);
    free(ranks->slot);
    *ranks = (wtn_slots_by_rank_t){0};
}
