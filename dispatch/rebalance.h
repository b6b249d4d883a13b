/* A rebalancing under way, for the files that make it and move it on. */
#ifndef WTN_REBALANCE_INTERNAL_H
#define WTN_REBALANCE_INTERNAL_H

#include <witan/rebalance.h>

#include "dispatch/moves.h"
#include "dispatch/plan.h"

#define WTN_REBALANCE_WINDOW 8 /* pieces under way in each direction */

typedef enum wtn_rebalance_state {
    WTN_REBALANCE_MOVING,
    WTN_REBALANCE_COMMITTED,
    WTN_REBALANCE_BROKEN,
} wtn_rebalance_state_t;

/* One direction: the moves from or to this rank, piece by piece. */
typedef struct wtn_flow {
    bool          is_send;
    int32_t       next;   /* move to go on with */
    size_t        offset; /* in its weights */
    int64_t       bytes;  /* posted */
    wtn_request_t requests[WTN_REBALANCE_WINDOW];
} wtn_flow_t;

/* What a rank says in a commit. */
typedef struct wtn_vote {
    int32_t done;
    int32_t busy; /* plans of the layer between route and combine */
} wtn_vote_t;

struct witan_rebalance {
    witan_layer_t        *layer;
    wtn_comm_t           *comm;
    wtn_watch_t          *watch; /* over `ranks` */
    int32_t               channel;
    int32_t              *ranks; /* [rank_count] that swap together: those of one data index */
    int32_t               rank_count;
    wtn_rebalance_state_t state;
    bool                  reserved; /* spare weights of the layer are this one's */
    wtn_moves_t           moves;
    wtn_placement_t       placement; /* new; from the commit on the old one */
    int32_t              *experts;   /* [local_count] of this rank's slots, likewise */
    int32_t              *at, *held; /* [local_count + spares] scratch of the swap */
    size_t                expert_bytes, piece_bytes;
    wtn_flow_t            in, out;
    int32_t               copy_next; /* moves from this rank to itself */
    size_t                copy_offset;
    uint64_t              idle_ns; /* since when nothing has passed; 0: something has */
    wtn_vote_t            mine;
    wtn_vote_t           *votes; /* [rank_count] */
    wtn_request_t        *vote_requests;
};

/* rebalance_begin.c: what the moves of a layer come to on this rank. */
void wtn_rebalance_bytes(const witan_layer_t *layer, const wtn_moves_t *moves,
                         witan_rebalance_info_t *info);

#endif
