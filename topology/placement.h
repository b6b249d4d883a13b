/* Placement: which ranks of an expert-parallel group hold which experts.
 *
 * An expert lies in one slot or in several (replicas); a slot belongs to one owner. A placement has
 * R slots, R >= E. Which replica computes a token is a pure function of the token, so ranks need
 * not talk about it, and results do not depend on it: replicas hold the same bits. */
#ifndef WTN_PLACEMENT_H
#define WTN_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_placement {
    int32_t  expert_count, owner_count, slot_count;
    int32_t *slot_expert;   /* [R] 0..E-1 */
    int32_t *slot_owner;    /* [R] 0..owner_count-1 */
    int32_t *slot_local;    /* [R] index among its owner's slots, ascending by slot */
    int32_t *replica_begin; /* [E + 1] prefix sums of replica counts; each expert has at least 1 */
    int32_t *replica_slots; /* [R] slots of expert e from replica_begin[e] on, ascending */
    int32_t *counts;        /* [owner_count] slots held; 0 is legal */
} wtn_placement_t;

typedef struct wtn_placement_spec {
    int32_t        expert_count, owner_count;
    const int32_t *expert_owner; /* [E] slot e is expert e at this owner; NULL: contiguous runs */
    int32_t        slot_count;   /* 0: no replicas, slots as above */
    const int32_t *slot_expert;  /* [slot_count] */
    const int32_t *slot_owner;   /* [slot_count]; NULL: contiguous runs as equal as can be */
} wtn_placement_spec_t;

/* WITAN_E_CONFIG naming the first slot or expert that is wrong; WITAN_E_ARGUMENT for tables that
 * contradict each other; WITAN_E_MEMORY. */
witan_status_t wtn_placement_make(wtn_placement_t *placement, const wtn_placement_spec_t *spec);
void           wtn_placement_free(wtn_placement_t *placement);

/* Is slot s expert s everywhere? */
bool wtn_placement_is_plain(const wtn_placement_t *placement);

/* owner and local [R] of each replica: those of expert e from replica_begin[e] on. */
void wtn_placement_replicas(const wtn_placement_t *placement, int32_t *owner, int32_t *local);

/* The slot that computes `expert` for a token: replicas take turns as `salt`, >= 0, counts up. */
static inline int32_t wtn_placement_choose(const wtn_placement_t *placement, int32_t expert,
                                           int64_t salt)
{
    int32_t begin = placement->replica_begin[expert];
    int32_t count = placement->replica_begin[expert + 1] - begin;

    return placement->replica_slots[count == 1 ? begin : begin + (int32_t)(salt % count)];
}

#endif
