/* The public way to the load balancing: experts for the slots a layer has. */
#include <inttypes.h>
#include <stdlib.h>

#include <witan/rebalance.h>

#include "core/error.h"
#include "dispatch/layer.h"
#include "topology/balance.h"

/* The balancing deals slots out in ascending runs; the layer's ranks have as many, in any order. */
static witan_status_t to_layer_slots(const wtn_placement_t *placement, const int32_t *experts,
                                     const int32_t *owners, int32_t *slot_expert)
{
    int32_t       *begin = calloc((size_t)placement->owner_count + 1, sizeof(*begin));
    witan_status_t status;

    if (begin == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "rebalance: %" PRId32 " ranks", placement->owner_count);
    }
    for (int32_t s = 0; s < placement->slot_count; s++) {
        begin[owners[s] + 1]++;
    }
    for (int32_t r = 0; r < placement->owner_count; r++) {
        if (begin[r + 1] != placement->counts[r]) {
            status = WTN_ERROR(WITAN_E_UNSUPPORTED,
                               "rebalance: slots of expert index %" PRId32 ": expected %" PRId32
                               ", dealt as equally as can be, found %" PRId32,
                               r, begin[r + 1], placement->counts[r]);
            goto fail;
        }
        begin[r + 1] += begin[r];
    }
    for (int32_t s = 0; s < placement->slot_count; s++) {
        slot_expert[s] = experts[begin[placement->slot_owner[s]] + placement->slot_local[s]];
    }
    status = WITAN_OK;

fail:
    free(begin);
    return status;
}

witan_status_t witan_rebalance_target(const witan_layer_t *layer, const float *expert_load,
                                      int32_t *slot_expert)
{
    const wtn_placement_t *placement;
    wtn_balance_shape_t    shape;
    wtn_balance_slots_t    current;
    int32_t               *experts, *owners;
    witan_status_t         status;

    if (layer == NULL || expert_load == NULL || slot_expert == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: a pointer is NULL");
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
    WTN_TRY(wtn_balance(&shape, expert_load, experts, owners));
    WTN_TRY(wtn_balance_settle(&shape, &current, owners, experts));
    WTN_TRY(to_layer_slots(placement, experts, owners, slot_expert));

fail:
    free(experts);
    free(owners);
    return status;
}
