#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/placement.h"

/* One block for all tables. */
static void carve(wtn_placement_t *placement, wtn_carver_t *carver)
{
    size_t slots = (size_t)placement->slot_count, experts = (size_t)placement->expert_count;

    placement->slot_expert   = wtn_carve(carver, slots, sizeof(int32_t));
    placement->slot_owner    = wtn_carve(carver, slots, sizeof(int32_t));
    placement->slot_local    = wtn_carve(carver, slots, sizeof(int32_t));
    placement->replica_begin = wtn_carve(carver, experts + 1, sizeof(int32_t));
    placement->replica_slots = wtn_carve(carver, slots, sizeof(int32_t));
    placement->counts        = wtn_carve(carver, (size_t)placement->owner_count, sizeof(int32_t));
}

static witan_status_t take_memory(wtn_placement_t *placement)
{
    wtn_carver_t carver = {0};

    carve(placement, &carver);
    carver.base = carver.bytes == SIZE_MAX ? NULL : calloc(1, carver.bytes);
    if (carver.base == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "placement: %" PRId32 " slots", placement->slot_count);
    }
    carver.bytes = 0;
    carve(placement, &carver);
    return WITAN_OK;
}

static witan_status_t check_spec(const wtn_placement_spec_t *spec)
{
    if (spec->slot_count == 0 && (spec->slot_expert != NULL || spec->slot_owner != NULL)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "slot_expert or slot_owner without slot_count");
    }
    if (spec->slot_count == 0) {
        return WITAN_OK;
    }
    if (spec->slot_expert == NULL || spec->expert_owner != NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "slot_count: expected slot_expert and no expert_owner");
    }
    if (spec->slot_count < spec->expert_count || spec->slot_count > INT32_MAX / 2) {
        return WTN_ERROR(WITAN_E_CONFIG, "slot_count: expected %" PRId32 " to %d, found %" PRId32,
                         spec->expert_count, INT32_MAX / 2, spec->slot_count);
    }
    return WITAN_OK;
}

static void fill_owners(wtn_placement_t *placement, const int32_t *owner)
{
    if (owner != NULL) {
        memcpy(placement->slot_owner, owner, (size_t)placement->slot_count * sizeof(*owner));
        return;
    }
    for (int32_t r = 0; r < placement->owner_count; r++) {
        int64_t begin = wtn_part_begin(placement->slot_count, placement->owner_count, r);
        int64_t end   = wtn_part_begin(placement->slot_count, placement->owner_count, r + 1);

        for (int64_t s = begin; s < end; s++) {
            placement->slot_owner[s] = r;
        }
    }
}

static void fill_experts(wtn_placement_t *placement, const int32_t *experts)
{
    for (int32_t s = 0; s < placement->slot_count; s++) {
        placement->slot_expert[s] = experts == NULL ? s : experts[s];
    }
}

static witan_status_t check_slots(const wtn_placement_t *placement, bool by_slot)
{
    for (int32_t s = 0; s < placement->slot_count; s++) {
        if (placement->slot_owner[s] < 0 || placement->slot_owner[s] >= placement->owner_count) {
            return WTN_ERROR(WITAN_E_CONFIG,
                             "%s[%" PRId32 "]: expected 0 to %" PRId32 ", found %" PRId32,
                             by_slot ? "slot_owner" : "expert_owner", s, placement->owner_count - 1,
                             placement->slot_owner[s]);
        }
        if (placement->slot_expert[s] < 0 || placement->slot_expert[s] >= placement->expert_count) {
            return WTN_ERROR(WITAN_E_CONFIG,
                             "slot_expert[%" PRId32 "]: expected 0 to %" PRId32 ", found %" PRId32,
                             s, placement->expert_count - 1, placement->slot_expert[s]);
        }
    }
    return WITAN_OK;
}

/* Where slots lie among their owner's, and the slots of each expert. */
static witan_status_t index_slots(wtn_placement_t *placement)
{
    int32_t *begin = placement->replica_begin;

    for (int32_t s = 0; s < placement->slot_count; s++) {
        placement->slot_local[s] = placement->counts[placement->slot_owner[s]]++;
        begin[placement->slot_expert[s] + 1]++;
    }
    for (int32_t e = 0; e < placement->expert_count; e++) {
        if (begin[e + 1] == 0) {
            return WTN_ERROR(WITAN_E_CONFIG, "slot_expert: expert %" PRId32 " has no slot", e);
        }
        begin[e + 1] += begin[e];
    }
    /* begin[e] moves on to the next expert's as its slots are placed, from the last. */
    for (int32_t s = placement->slot_count - 1; s >= 0; s--) {
        placement->replica_slots[--begin[placement->slot_expert[s] + 1]] = s;
    }
    memmove(begin, begin + 1, (size_t)placement->expert_count * sizeof(*begin));
    begin[placement->expert_count] = placement->slot_count;
    return WITAN_OK;
}

witan_status_t wtn_placement_make(wtn_placement_t *placement, const wtn_placement_spec_t *spec)
{
    bool           by_slot = spec->slot_count > 0;
    witan_status_t status;

    *placement = (wtn_placement_t){.expert_count = spec->expert_count,
                                   .owner_count  = spec->owner_count,
                                   .slot_count   = by_slot ? spec->slot_count : spec->expert_count};
    WTN_TRY(check_spec(spec));
    WTN_TRY(take_memory(placement));
    fill_owners(placement, by_slot ? spec->slot_owner : spec->expert_owner);
    fill_experts(placement, spec->slot_expert);
    WTN_TRY(check_slots(placement, by_slot));
    WTN_TRY(index_slots(placement));
    return WITAN_OK;

fail:
    wtn_placement_free(placement);
    return status;
}

void wtn_placement_free(wtn_placement_t *placement)
{
    free(placement->slot_expert); /* the block of all tables */
    *placement = (wtn_placement_t){0};
}

bool wtn_placement_is_plain(const wtn_placement_t *placement)
{
    for (int32_t s = 0; s < placement->slot_count; s++) {
        if (placement->slot_expert[s] != s) {
            return false;
        }
    }
    return true;
}

void wtn_placement_replicas(const wtn_placement_t *placement, int32_t *owner, int32_t *local)
{
    for (int32_t i = 0; i < placement->slot_count; i++) {
        owner[i] = placement->slot_owner[placement->replica_slots[i]];
        local[i] = placement->slot_local[placement->replica_slots[i]];
    }
}
