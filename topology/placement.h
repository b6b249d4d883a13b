/* Placement: which rank of an expert-parallel group holds which expert. */
#ifndef WTN_PLACEMENT_H
#define WTN_PLACEMENT_H

#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_placement {
    int32_t  expert_count, owner_count;
    int32_t *owner;  /* [expert_count] 0..owner_count-1 */
    int32_t *local;  /* [expert_count] index among its owner's experts, ascending by expert */
    int32_t *counts; /* [owner_count] experts held; 0 is legal */
} wtn_placement_t;

/* From a table of owners, or NULL for contiguous runs as equal as can be. WITAN_E_CONFIG naming the
 * first expert whose owner does not exist; WITAN_E_MEMORY. */
witan_status_t wtn_placement_make(wtn_placement_t *placement, int32_t expert_count,
                                  int32_t owner_count, const int32_t *owner);
void           wtn_placement_free(wtn_placement_t *placement);

#endif
