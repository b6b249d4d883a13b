/* Which weights move where when the experts of a placement's slots change. Pure. */
#ifndef WTN_MOVES_H
#define WTN_MOVES_H

#include "topology/placement.h"

typedef struct wtn_move {
    int32_t to, from;   /* owners; equal: a copy of weights that stay too */
    int32_t spare;      /* arrives as this spare one at `to`, counted there */
    int32_t from_local; /* of the slot it is read from, in the old placement */
} wtn_move_t;

/* A rank's slot takes weights it has, by the index of the slot that held them, or an arriving one:
 * number `counts[owner] + spare`. */
typedef struct wtn_moves {
    int32_t     count;
    wtn_move_t *moves;    /* by spare, then by `to`: all ranks are busy from the first */
    int32_t    *incoming; /* [owner_count] moves to each */
    int32_t    *source;   /* [slot_count] the weights each slot takes */
} wtn_moves_t;

/* `to` has the slots of `from` with other experts. WITAN_E_MEMORY. */
witan_status_t wtn_moves_make(wtn_moves_t *moves, const wtn_placement_t *from,
                              const wtn_placement_t *to);
void           wtn_moves_free(wtn_moves_t *moves);

#endif
