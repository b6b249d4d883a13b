#include "dispatch/moves.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/error.h"

#define NONE (-1)

/* Slots of an owner in order, and who has been given the weights of an old slot. */
typedef struct work {
    const wtn_placement_t *from, *to;
    int32_t               *begin;   /* [owner_count + 1] */
    int32_t               *slots;   /* [slot_count] by owner, then by slot */
    int32_t               *turn;    /* [expert_count] moves of an expert so far */
    bool                  *claimed; /* [slot_count] */
} work_t;

static void free_work(work_t *work)
{
    free(work->begin);
    free(work->slots);
    free(work->turn);
    free(work->claimed);
}

static witan_status_t make_work(work_t *work, const wtn_placement_t *from,
                                const wtn_placement_t *to)
{
    size_t slots = (size_t)from->slot_count;

    *work = (work_t){
        .from    = from,
        .to      = to,
        .begin   = calloc((size_t)from->owner_count + 1, sizeof(int32_t)),
        .slots   = calloc(slots, sizeof(int32_t)),
        .turn    = calloc((size_t)from->expert_count, sizeof(int32_t)),
        .claimed = calloc(slots, sizeof(bool)),
    };
    if (work->begin == NULL || work->slots == NULL || work->turn == NULL || work->claimed == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "rebalance: %zu slots", slots);
    }
    for (int32_t r = 0; r < from->owner_count; r++) {
        work->begin[r + 1] = work->begin[r] + from->counts[r];
    }
    for (int32_t s = 0; s < from->slot_count; s++) {
        work->slots[work->begin[from->slot_owner[s]] + from->slot_local[s]] = s;
    }
    return WITAN_OK;
}

/* A slot of `owner` that held `expert`; with `free_only` one whose weights nobody has yet. */
static int32_t find(const work_t *work, int32_t owner, int32_t expert, bool free_only)
{
    for (int32_t i = work->begin[owner]; i < work->begin[owner + 1]; i++) {
        int32_t slot = work->slots[i];

        if (work->from->slot_expert[slot] == expert && !(free_only && work->claimed[slot])) {
            return slot;
        }
    }
    return NONE;
}

/* Slots whose rank has the weights take them, best of all their own. */
static void claim(work_t *work, int32_t *source)
{
    const wtn_placement_t *from = work->from, *to = work->to;

    for (int32_t s = 0; s < from->slot_count; s++) {
        work->claimed[s] = from->slot_expert[s] == to->slot_expert[s];
        source[s]        = work->claimed[s] ? from->slot_local[s] : NONE;
    }
    for (int32_t s = 0; s < from->slot_count; s++) {
        int32_t held =
            source[s] == NONE ? find(work, from->slot_owner[s], to->slot_expert[s], true) : NONE;

        if (held != NONE) {
            work->claimed[held] = true;
            source[s]           = from->slot_local[held];
        }
    }
}

/* The other slots get theirs from replicas in turn, or from their own rank's. */
static void fetch(work_t *work, wtn_moves_t *moves)
{
    const wtn_placement_t *from = work->from;

    for (int32_t s = 0; s < from->slot_count; s++) {
        int32_t expert = work->to->slot_expert[s], owner = from->slot_owner[s], slot;

        if (moves->source[s] != NONE) {
            continue;
        }
        slot = find(work, owner, expert, false);
        if (slot == NONE) {
            slot = wtn_placement_choose(from, expert, work->turn[expert]++);
        }
        moves->moves[moves->count++] = (wtn_move_t){.to         = owner,
                                                    .from       = from->slot_owner[slot],
                                                    .spare      = moves->incoming[owner],
                                                    .from_local = from->slot_local[slot]};
        moves->source[s]             = from->counts[owner] + moves->incoming[owner]++;
    }
}

static int compare(const void *left, const void *right)
{
    const wtn_move_t *a = left, *b = right;

    if (a->spare != b->spare) {
        return a->spare < b->spare ? -1 : 1;
    }
    return (a->to > b->to) - (a->to < b->to);
}

witan_status_t wtn_moves_make(wtn_moves_t *moves, const wtn_placement_t *from,
                              const wtn_placement_t *to)
{
    size_t         slots = (size_t)from->slot_count;
    work_t         work;
    witan_status_t status;

    *moves = (wtn_moves_t){
        .moves    = calloc(slots, sizeof(*moves->moves)),
        .incoming = calloc((size_t)from->owner_count, sizeof(*moves->incoming)),
        .source   = calloc(slots, sizeof(*moves->source)),
    };
    WTN_TRY(make_work(&work, from, to));
    if (moves->moves == NULL || moves->incoming == NULL || moves->source == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "rebalance: %zu moves", slots);
        goto fail;
    }
    claim(&work, moves->source);
    fetch(&work, moves);
    qsort(moves->moves, (size_t)moves->count, sizeof(*moves->moves), compare);

fail:
    free_work(&work);
    if (status != WITAN_OK) {
        wtn_moves_free(moves);
    }
    return status;
}

void wtn_moves_free(wtn_moves_t *moves)
{
    free(moves->moves);
    free(moves->incoming);
    free(moves->source);
    *moves = (wtn_moves_t){0};
}
