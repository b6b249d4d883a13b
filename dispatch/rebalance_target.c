/* The public way to the load balancing: experts for the slots a layer has. */
#include <inttypes.h>
#include <stdlib.h>

#include <witan/rebalance.h>

#include "core/error.h"
#include "dispatch/layer.h"
#include "topology/balance.h"

/* The balancing may deal the slots of a rank out in another order than the layer's. */
static witan_status_t to_layer_slots(const wtn_placement_t *placement, const int32_t *experts,
                                     const int32_t *owners, int32_t *slot_expert)
{
    int32_t       *begin   = calloc((size_t)placement->owner_count + 1, sizeof(*begin));
    int32_t       *ordered = calloc((size_t)placement->slot_count, sizeof(*ordered));
    int32_t       *counts  = calloc((size_t)placement->owner_count, sizeof(*counts));
    witan_status_t status;

    if (begin == NULL || ordered == NULL || counts == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "rebalance: %" PRId32 " slots", placement->slot_count);
        goto fail;
    }
    for (int32_t r = 0; r < placement->owner_count; r++) {
        begin[r + 1] = begin[r] + placement->counts[r];
    }
    for (int32_t s = 0; s < placement->slot_count; s++) {
        int32_t owner = owners[s];

        if (counts[owner] == placement->counts[owner]) {
            status = WTN_ERROR(WITAN_E_UNSUPPORTED,
                               "rebalance: slots of expert index %" PRId32
                               ": expected more than %" PRId32 ", dealt as equally as can be",
                               owner, placement->counts[owner]);
            goto fail;
        }
        ordered[begin[owner] + counts[owner]++] = experts[s];
    }
    for (int32_t s = 0; s < placement->slot_count; s++) {
        slot_expert[s] = ordered[begin[placement->slot_owner[s]] + placement->slot_local[s]];
    }
    status = WITAN_OK;

fail:
    free(begin);
    free(ordered);
    free(counts);
    return status;
}

witan_status_t witan_rebalance_target(const witan_layer_t *layer, const float *expert_load,
                                      double imbalance_max, int32_t *slot_expert)
{
    const wtn_placement_t *placement;
    wtn_balance_shape_t    shape;
    wtn_balance_slots_t    current;
    int32_t               *experts, *owners;
    witan_status_t         status;

    if (layer == NULL || expert_load == NULL || slot_expert == NULL ||
        !(imbalance_max == 0 || imbalance_max >= 1)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "rebalance: a pointer is NULL, or imbalance_max is neither 0 nor >= 1");
    }
    placement = &layer->layout.placement;
    shape     = (wtn_balance_shape_t){.expert_count = placement->expert_count,
                                      .slot_count   = placement->slot_count,
                                      .group_count  = 1,
                                      .node_count   = 1,
                                      .rank_count   = placement->owner_count};
    current   = (wtn_balance_slots_t){.slot_count = placement->slot_count,
                                      .expert     = placement->slot_expert,
                                      .owner      = placement->slot_owner};
    experts   = calloc((size_t)placement->slot_count, sizeof(*experts));
    owners    = calloc((size_t)placement->slot_count, sizeof(*owners));
    if (experts == NULL || owners == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "rebalance: %" PRId32 " slots", placement->slot_count);
        goto fail;
    }
    WTN_TRY(wtn_balance_renew(&shape, expert_load, imbalance_max, &current, experts, owners));
    WTN_TRY(to_layer_slots(placement, experts, owners, slot_expert));

fail:
    free(experts);
    free(owners);
    return status;
}
