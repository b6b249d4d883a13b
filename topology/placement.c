#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/placement.h"

witan_status_t wtn_placement_make(wtn_placement_t *placement, int32_t expert_count,
                                  int32_t owner_count, const int32_t *owner)
{
    witan_status_t status;

    *placement        = (wtn_placement_t){.expert_count = expert_count, .owner_count = owner_count};
    placement->owner  = calloc((size_t)expert_count, sizeof(*placement->owner));
    placement->local  = calloc((size_t)expert_count, sizeof(*placement->local));
    placement->counts = calloc((size_t)owner_count, sizeof(*placement->counts));
    if (placement->owner == NULL || placement->local == NULL || placement->counts == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "placement: %" PRId32 " experts", expert_count);
        goto fail;
    }
    if (owner != NULL) {
        memcpy(placement->owner, owner, (size_t)expert_count * sizeof(*owner));
    } else {
        for (int32_t r = 0; r < owner_count; r++) {
            int64_t begin = wtn_part_begin(expert_count, owner_count, r);
            int64_t end   = wtn_part_begin(expert_count, owner_count, r + 1);

            for (int64_t e = begin; e < end; e++) {
                placement->owner[e] = r;
            }
        }
    }
    for (int32_t e = 0; e < expert_count; e++) {
        int32_t r = placement->owner[e];

        if (r < 0 || r >= owner_count) {
            status =
                WTN_ERROR(WITAN_E_CONFIG,
                          "expert_owner[%" PRId32 "]: expected 0 to %" PRId32 ", found %" PRId32, e,
                          owner_count - 1, r);
            goto fail;
        }
        placement->local[e] = placement->counts[r]++;
    }
    return WITAN_OK;

fail:
    wtn_placement_free(placement);
    return status;
}

void wtn_placement_free(wtn_placement_t *placement)
{
    free(placement->owner);
    free(placement->local);
    free(placement->counts);
    *placement = (wtn_placement_t){0};
}
